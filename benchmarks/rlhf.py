"""What `method=rlhf` does to the built-in model: the reward of each policy, and what nobody told the reward model.

    python benchmarks/rlhf.py [--seeds 2] [--save]

The command is run as it stands, once for each seed. Told are the mean reward of the likeliest answers to held-out
prompts for the model as found, after SFT and after PPO, as the pipeline measures it, and of answers sampled at
temperature 1 by each of the three how many are polite, which is what the comparisons prefer, and how many are right.
Rewards that do not rise from policy to policy end the script with an error, as do answers that end less polite than
they began.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import save, versions
from preferences import ftcli, sampled


def measured(seed: int) -> dict[str, Any]:
    """The pipeline from one seed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "rlhf"
        ftcli("train", "method=rlhf", "hardware=cpu", "hardware.num_threads=1", f"seed={seed}", f"run.dir={run}")
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        models = {"found": "builtin:tiny", "sft": str(run / "sft"), "ppo": str(run / "ppo")}
        found = {
            "seed": seed,
            "seconds": round(result["seconds"], 1),
            "measure": result["measure"],
            "sampled": {stage: sampled(model, folder) for stage, model in models.items()},
        }
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    found = [measured(seed) for seed in range(1, options.seeds + 1)]
    for each in found:
        rewards, manners = list(each["measure"]["values"].values()), each["sampled"]
        if rewards != sorted(rewards) or manners["ppo"]["polite"] <= manners["sft"]["polite"]:
            raise SystemExit(f"seed {each['seed']}: the reward does not rise, or the answers are no politer")
    if options.save:
        save("rlhf", {"schema": 1, "runs": found, "versions": versions()})


if __name__ == "__main__":
    main()
