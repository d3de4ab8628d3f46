"""Our PPO against the last that TRL had: the reward reached, and the seconds an episode takes.

    python benchmarks/ppo.py [--seeds 5] [--save]

Both learn from the same policy, reward model and prompts, with value and reference networks of their own, the same
batches, minibatches, passes and coefficients, in float32 on CPU: TRL 1.12's `trl.experimental.ppo` in an environment
that the first run builds (peers/ppo_trl.py says what its times hold), ours in this one (peers/ppo_ftcli.py). The policy
answers rightly in mixed manners, the reward model prefers polite answers: the first two stages of `method=rlhf` on the
built-in model. For each seed both train from the start, in turns: ours first for odd seeds, TRL's for even ones.

The reward is the reward model's mean over the answers of the last LAST rollouts, without KL or penalties. Ours is worse
if its mean over the seeds lies below TRL's by more than the standard error of the difference; then, or if an episode
takes more than 1 / TARGET of TRL's time in the median of seeds, the script ends with an error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from common import save, versions
from peers.environment import python_of

from ftcli import tiny
from ftcli.methods.rlhf import PIPELINE
from ftcli.settings.groups import ModelSettings
from ftcli.worker.models.load import make_encoder

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "peers"
LAST, TARGET = 5, 1.2
REQUEST: dict[str, Any] = {
    "batch": 16, "minibatches": 4, "rollout": 64, "epochs": 4, "episodes": 64 * 16, "response_tokens": 32,
    "learning_rate": 1e-4, "kl_coef": 0.05, "vf_coef": 0.1, "cliprange": 0.2, "cliprange_value": 0.2, "gamma": 1.0,
    "lam": 0.95, "temperature": 1.0, "whiten_rewards": False, "missing_eos_penalty": None, "threads": 1,
}  # fmt: skip
QUIET = {"HF_HUB_OFFLINE": "1", "TRL_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore", "ACCELERATE_USE_CPU": "true"}
# The trainer says of itself that it is experimental and will go.
QUIET["TRL_EXPERIMENTAL_SILENCE"] = "1"
Told = dict[str, Any]


def materials(folder: Path) -> Told:
    """Policy, reward model and prompts, as paths."""
    for name, base in (("sft", "builtin:tiny"), ("reward", str(folder / "sft"))):
        stage = PIPELINE.stage(name)
        words = [f"method={stage.method}", f"model.name_or_path={base}", "hardware=cpu", "run.score_rows=0"]
        words += [f"{key}={value}" for key, value in stage.tiny.items()]
        words += ["train.save_strategy=no", "train.eval_strategy=no", f"run.dir={folder / name}"]
        subprocess.run([sys.executable, "-m", "ftcli", "train", *words], check=True, capture_output=True)
    rows = tiny.set_path("prompts", "train")
    encoder = make_encoder(ModelSettings(name_or_path=str(folder / "sft")))
    asked = [json.loads(line)["prompt"] for line in rows.read_text(encoding="utf-8").splitlines()]
    (folder / "prompts.json").write_text(json.dumps([encoder.prompt_ids(prompt) for prompt in asked]), encoding="utf-8")
    return {
        "policy": str(folder / "sft" / "model"),
        "reward": str(folder / "reward" / "model"),
        "rows": str(rows),
        "prompts": str(folder / "prompts.json"),
    }


def run(name: str, python: Path, request: Told, folder: Path) -> Told:
    """Train once in a fresh process.

    Raises:
        RuntimeError: it failed.
    """
    file = folder / f"{name}.json"
    asked = {**request, "out": str(folder / f"{name}-{request['seed']}")}
    file.write_text(json.dumps(asked), encoding="utf-8")
    environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": str(request["threads"])}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    command = [str(python), str(Path(__file__).parent / "peers" / f"ppo_{name}.py"), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: exit {done.returncode}\n{done.stderr[-3000:]}")
    told: Told = json.loads(done.stdout.splitlines()[-1])
    parts = {part: round(seconds, 2) for part, seconds in told["breakdown"].items()}
    found = {"reward": mean(each["reward"] for each in told["rollouts"][-LAST:]), "seconds": told["seconds"], **parts}
    found |= {"first_reward": told["rollouts"][0]["reward"], "kl": told["rollouts"][-1]["kl"]}
    found["tokens"] = round(mean(each["tokens"] for each in told["rollouts"]), 2)
    print(json.dumps({"name": name, "seed": request["seed"], **found}), flush=True)
    return {**found, "versions": told["versions"], "rollouts": len(told["rollouts"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch = metadata.version("torch").partition("+")[0]
    pythons = {"ftcli": Path(sys.executable), "trl": python_of("trl_ppo", ("trl==1.12.0",), BUILD, torch)}
    found: dict[str, list[Told]] = {"ftcli": [], "trl": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = {**REQUEST, **materials(folder)}
        for seed in range(1, options.seeds + 1):
            for tool in ("ftcli", "trl") if seed % 2 else ("trl", "ftcli"):
                found[tool].append(run(tool, pythons[tool], {**request, "seed": seed}, folder))
    episodes = REQUEST["episodes"]
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in zip(found["ftcli"], found["trl"], strict=True)]
    without = [
        (theirs["seconds"] - theirs["other"]) / (ours["seconds"] - ours["other"])
        for ours, theirs in zip(found["ftcli"], found["trl"], strict=True)
    ]
    rewards = {tool: [each["reward"] for each in rows] for tool, rows in found.items()}
    spread = {tool: stdev(values) if len(values) > 1 else 0.0 for tool, values in rewards.items()}
    error = (sum(value**2 for value in spread.values()) / options.seeds) ** 0.5
    for tool, rows in found.items():
        print(f"{tool}: reward {mean(rewards[tool]):.3f} ± {spread[tool]:.3f} after {episodes} episodes", end=", ")
        parts = {part: median(row[part] for row in rows) for part in ("generation", "scoring", "update", "other")}
        each = {part: f"{1000 * seconds / episodes:.2f}" for part, seconds in parts.items()}
        print(f"{1000 * median(row['seconds'] for row in rows) / episodes:.2f} ms an episode: {each}")
    print(f"TRL's time over ours: {[round(ratio, 2) for ratio in ratios]}, median {median(ratios):.2f}; ", end="")
    print(f"without what is neither generation, scoring nor update {median(without):.2f}")
    if mean(rewards["ftcli"]) < mean(rewards["trl"]) - error or median(ratios) < TARGET:
        raise SystemExit("worse than TRL's, or too slow")
    if options.save:
        about = {"schema": 1, "request": REQUEST, "last": LAST, "versions": versions()}
        about["theirs"] = found["trl"][0]["versions"]
        rows_of = {
            tool: [{key: value for key, value in row.items() if key != "versions"} for row in rows]
            for tool, rows in found.items()
        }
        save("ppo", {**about, "runs": rows_of, "ratio": median(ratios), "ratio_without_other": median(without)})


if __name__ == "__main__":
    main()
