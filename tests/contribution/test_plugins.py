"""A plugin outside the package, with a declaration of each kind: it trains, is recorded, and its faults are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.contribution.acme import FILES, planted

TIMEOUT_SECONDS = 1200
TINY = ("model=tiny", "hardware.num_threads=1", "train.max_steps=2", "train.eval_strategy=no", "run.score_rows=0")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ftcli(tmp_path: Path) -> Run:
    """One command of ftcli in a process of its own, in an empty folder."""

    def run(*words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(REPOSITORY), environment.pop("PYTHONPATH", "")]))
        own = {**os.environ, "PYTHONPATH": path, **environment}
        done = subprocess.run(
            [sys.executable, "-m", "ftcli", *words], cwd=tmp_path, env=own, capture_output=True, text=True,
            timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    return planted(tmp_path / "acme")


def rows(folder: Path) -> Path:
    file = folder / "exam.jsonl"
    lines = [json.dumps({"task_text": f"{n} + 2?", "solution_text": str(n + 2)}) for n in range(16)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text(encoding="utf-8"))


# --- it works ---------------------------------------------------------------------------------------------------------


def test_a_method_an_adapter_a_format_and_a_profile_train_together(acme: Path, ftcli: Run, tmp_path: Path):
    words = ("method=steady", "peft=fourier", "hardware=bench", f"data.path={rows(tmp_path)}", *TINY, "run.dir=r")
    ftcli("train", "--plugins", "acme", *words)
    run = tmp_path / "r"
    result = read(run, "result.json")
    assert (result["method"], result["peft"], result["steps"]) == ("steady", "fourier", 2)
    assert "the steady trainer computes a loss" in (run / "log.txt").read_text(encoding="utf-8")
    assert read(run, "ledger.json")["train"]["rows_read"] == 16
    assert read(run / "model", "adapter_config.json")["peft_type"] == "FOURIERFT"
    spec = read(run, "spec.json")
    assert spec["hardware"]["type"] == "bench"
    assert list(spec["plugins"]) == ["acme"]
    assert read(run, "environment.json")["plugins"] == spec["plugins"]
    assert "--plugins acme" in (run / "command.sh").read_text(encoding="utf-8")
    # Its code is run again only where the command line says so again.
    for again in (("--resume", "r", "train.max_steps=3"), ("--from", "r", "run.dir=r2"), ("--from", "r", "seed=1")):
        refused = ftcli("train", *again, "--dry-run", code=2).stderr
        assert "was composed with the plugin acme, which is not here" in refused
        assert "--plugins DIR, where DIR is its folder acme" in refused
        ftcli("train", "--plugins", "acme", *again, "--dry-run")


def test_a_reward_rewards_the_answers_of_grpo(acme: Path, ftcli: Run, tmp_path: Path):
    method = ("method=grpo", "method.rewards={brief: {most: 4}, ended: 1}", "method.max_completion_length=8")
    ftcli("train", "--plugins=acme", *method, "data.max_rows=8", "hardware=cpu", *TINY, "run.dir=r")
    metrics = (tmp_path / "r" / "metrics.jsonl").read_text(encoding="utf-8")
    assert "brief" in metrics


def test_a_tracker_keeps_the_curve_and_one_that_fails_ends_no_training(acme: Path, ftcli: Run, tmp_path: Path):
    words = ("hardware=cpu", "data.max_rows=16", "train.logging_steps=1", "run.trackers=[slate]", *TINY)
    ftcli("train", "--plugins", "acme", *words, "run.tracking.slate.colour=red", "run.dir=r")
    run = tmp_path / "r"
    first, *lines = map(json.loads, (run / "trackers" / "slate" / "slate.jsonl").read_text("utf-8").splitlines())
    assert first["ledger"] == sha256((run / "ledger.json").read_bytes()).hexdigest()
    assert {**first, "ledger": ""} == {
        "name": f"{read(run, 'spec.json')['run']['name']}/r", "ledger": "", "seed": read(run, "spec.json")["seed"],
        "colour": "red", "breaks_at": None, "server": None,
    }  # fmt: skip
    metrics = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    assert [(line["step"], line["loss"]) for line in lines] == [
        (line["step"], line["loss"]) for line in metrics if "loss" in line
    ]
    assert read(run, "result.json")["trackers"] == {"slate": {"last_step": 2}}
    broken = ftcli("train", "--plugins", "acme", *words, "run.tracking.slate.breaks_at=2", "run.dir=b").stderr
    assert broken.count("note: the tracker slate keeps nothing more: OSError: the chalk broke") == 1
    told = read(tmp_path / "b", "result.json")["trackers"]
    assert told == {"slate": {"last_step": 1, "failed": "OSError: the chalk broke"}}


def test_a_file_lets_a_plugin_s_tracker_send_nothing(acme: Path, ftcli: Run, tmp_path: Path):
    recipe = "ftcli: 1\nrun:\n  trackers: [slate]\n  tracking: {slate: {server: http://x}}\n"
    (tmp_path / "r.yaml").write_text(recipe, encoding="utf-8")
    refused = ftcli("check", "--plugins", "acme", "recipe=r.yaml", code=2).stderr
    assert "run.tracking.slate.server sends data elsewhere" in refused
    ftcli("check", "--plugins", "acme", "recipe=r.yaml", "--allow-endpoint")
    assert "slate" in json.loads(ftcli("list", "tracker", "--plugins", "acme", "--json").stdout)["tracker"]


def test_it_is_checked_listed_and_known_to_the_schema(acme: Path, ftcli: Run):
    assert ftcli("plugins", "check", "acme").stdout.startswith("no problems: acme\n")
    declared = json.loads(ftcli("plugins", "check", "acme", "--json").stdout)["declares"]
    assert declared == {
        "methods": ["steady"],
        "peft_methods": ["fourier"],
        "profiles": ["bench"],
        "formats": ["exam"],
        "rewards": ["brief"],
        "trackers": ["slate"],
    }
    assert "steady" in json.loads(ftcli("list", "method", "--plugins", "acme", "--json").stdout)["method"]
    assert "method.steady" in json.loads(ftcli("schema", "--plugins", "acme").stdout)["$defs"]
    assert "steady" not in json.loads(ftcli("list", "method", "--json").stdout)["method"]
    assert "no plugin" in ftcli("plugins").stdout


def test_every_job_of_a_sweep_has_it(acme: Path, ftcli: Run):
    swept = ftcli("train", "-m", "--plugins", "acme", "peft=fourier", "hardware=bench", *TINY, "seed=1,2", "--dry-run")
    assert "2 of 2 jobs done" in swept.stderr


def test_no_variable_and_no_recipe_names_a_plugin(acme: Path, ftcli: Run, tmp_path: Path):
    alone = ftcli("check", "method=steady", "model=tiny", code=2, FTCLI_PLUGINS=str(acme)).stderr
    assert "steady is not a choice of method" in alone
    (tmp_path / "r.yaml").write_text("ftcli: 1\nplugins: acme\n", encoding="utf-8")
    assert "plugins is not a key of a recipe" in ftcli("check", "recipe=r.yaml", code=2).stderr


def test_an_installed_package_brings_a_plugin_and_is_named(tmp_path: Path, ftcli: Run):
    site = tmp_path / "site"
    planted(site / "acme_pack")
    about = site / "acme_ftcli-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-ftcli\nVersion: 1.2\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(
        "[console_scripts]\nx = y:z\n\n[ftcli.plugins]\nacme = acme_pack\n", "utf-8"
    )
    assert "bench" in json.loads(ftcli("list", "hardware", "--json", PYTHONPATH=str(site)).stdout)["hardware"]
    assert json.loads(ftcli("doctor", "--json", PYTHONPATH=str(site)).stdout)["plugins"] == {
        "acme": "package acme_ftcli 1.2"
    }
    words = ("train", "--cfg", "job", "--json", "peft=fourier", "model=tiny")
    assert json.loads(ftcli(*words, PYTHONPATH=str(site)).stdout)["choices"]["peft"] == "fourier"
    (about / "entry_points.txt").write_text("[ftcli.plugins]\nacme = acme_gone\n", "utf-8")
    assert (
        "announces the plugin acme, and acme_gone is not there"
        in ftcli("list", "hardware", code=2, PYTHONPATH=str(site)).stderr
    )


# --- faults -----------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[dict[str, str], str, str]] = {
    "no Python": ({"methods__steady": "METHOD = (\n"}, "methods/steady.py:1", "SyntaxError"),
    "a name that is not": ({"rewards__brief": "\n\nREWARD = breif\n"}, "rewards/brief.py:3", "NameError"),
    "an import that fails": ({"formats__exam": "import no_such_module\n"}, "formats/exam.py:1", "no_such_module"),
    "no method": ({"methods__steady": "METHOD = 1\n"}, "methods/steady.py:1", "METHOD is int, and no Method"),
    "no trainer": (
        {"methods__steady": FILES["methods/steady.py"].replace("SteadyTrainer", "StaedyTrainer")},
        "methods/steady.py:1", "'acme_trainer:StaedyTrainer' is no class",
    ),
    "a field that is not": (
        {"methods__steady": FILES["methods/steady.py"].replace('paper="nowhere"', 'paper="", fixed={"betta": 1}')},
        "methods/steady.py:1", "its fixed name betta, which is no field",
    ),
    "no group file": (
        {"methods__other": FILES["methods/steady.py"].replace('"steady"', '"other"')},
        "methods/other.py:1", "method=other has no group file",
    ),
    "a built-in name": ({"methods__sft": FILES["methods/steady.py"]}, "methods/sft.py", "has the name of a module"),
    "another name": ({"profiles__bank": FILES["profiles/bench.py"]}, "profiles/bank.py:1", "the profile 'bench'"),
    "a plan that fails": (
        {"profiles__bench": FILES["profiles/bench.py"].replace("return one_machine", "return one.machine")},
        "profiles/bench.py:8", "NameError",
    ),
    "another example": (
        {"formats__exam": FILES["formats/exam.py"].replace('"solution_text": "4"', '"solution_text": "5"')},
        "formats/exam.py:1", "its example becomes",
    ),
    "a converter that fails": (
        {"formats__exam": FILES["formats/exam.py"].replace('row["task_text"]', 'row["task"]')},
        "formats/exam.py:9", "KeyError: 'task'",
    ),
    "a reward out of range": (
        {"rewards__brief": FILES["rewards/brief.py"].replace("float(", "2 * float(")},
        "rewards/brief.py:4", "no number from 0 to 1",
    ),
    "a writer that is not": (
        {"trackers__slate": FILES["trackers/slate.py"].replace("acme_slate:Slate", "acme_slate:Sleet")},
        "trackers/slate.py:1", "'acme_slate:Sleet' is no class",
    ),
    "an address without a flag": (
        {"trackers__slate": FILES["trackers/slate.py"].replace("grant=ENDPOINT, ", "")},
        "trackers/slate.py:1", "its setting server sends to an address, and a file could set it without a flag",
    ),
    "a default of no type": (
        {"trackers__slate": FILES["trackers/slate.py"].replace('default="white"', 'default="blue"')},
        "trackers/slate.py:1", "its setting colour has the default 'blue'",
    ),
    "a setting of no type": (
        {"rewards__brief": FILES["rewards/brief.py"].replace("most: int", "most: dict")},
        "rewards/brief.py:1", "its setting most has the type dict",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_file_line_and_remedy(name: str, ftcli: Run, tmp_path: Path):
    changes, where, what = FAULTS[name]
    planted(tmp_path / "acme", **changes)
    told = ftcli("plugins", "check", "acme", code=2).stderr
    assert f"acme/{where}" in told
    assert what in told
    assert "\n  fix: " in told


def test_a_trainer_that_fails_in_a_run_is_named_too(ftcli: Run, tmp_path: Path):
    broken = FILES["acme_trainer.py"].replace(
        "        found =", '        raise ValueError("no loss today")\n        found ='
    )
    line = broken[: broken.index("raise")].count("\n") + 1
    planted(tmp_path / "acme", acme_trainer=broken)
    words = ("method=steady", "peft=lora", "hardware=cpu", *TINY, "data.max_rows=8", "run.dir=r")
    told = ftcli("train", "--plugins", "acme", *words, code=2).stderr
    assert f"acme/acme_trainer.py:{line}" in told
    assert "the plugin acme failed: ValueError: no loss today" in told


def test_what_is_no_plugin_is_refused(ftcli: Run, tmp_path: Path):
    assert "is no folder" in ftcli("list", "method", "--plugins", "gone", code=2).stderr
    (tmp_path / "empty").mkdir()
    assert "holds none of the folders methods" in ftcli("plugins", "check", "empty", code=2).stderr
    planted(tmp_path / "a:b")
    assert "which separates folders" in ftcli("plugins", "check", "a:b", code=2).stderr
    assert "names no folder" in ftcli("list", "--plugins", code=2).stderr
