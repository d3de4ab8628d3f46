"""`ftcli recipe import --prove` against plain TRL, the one other tool that is always at hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.cli import main
from ftcli.core.exit_codes import EXIT_CONFIG, EXIT_DONE, EXIT_GATE

COLOURS = {"grass": "green", "the sky": "blue", "a lemon": "yellow"}
PAIRS = [{"prompt": f"what colour is {name}?", "completion": f" {colour}"} for name, colour in COLOURS.items()]
TURNS = [
    {"messages": [{"role": "user", "content": each["prompt"]}, {"role": "assistant", "content": each["completion"]}]}
    for each in PAIRS
]


@pytest.fixture
def config(here: Path) -> Path:
    """A configuration of TRL and its rows, in the working directory."""
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return written(here, "trl.yaml", dataset_name="rows.jsonl", max_length=64)


def written(folder: Path, name: str, **settings: Any) -> Path:
    plain = {"model_name_or_path": "model", "use_peft": True, "learning_rate": 1e-4, **settings}
    if not (folder / "model").exists():
        shutil.copytree(tiny.MODEL_DIR, folder / "model")
    path = folder / name
    path.write_text(json.dumps(plain))
    return path


def proof(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["recipe", "import", *words, "--prove", "--json"])
    return code, json.loads(capsys.readouterr().out).get("proof", {})


@pytest.mark.slow
def test_the_same_rows_give_the_same_trained_tokens_in_trl(config, capsys):
    code, found = proof(capsys, "trl.yaml")
    assert (code, found["equal"], found["rows"], found["alike"]) == (EXIT_DONE, True, 3, 3), found
    # An answer is its word or two and the end token.
    assert found["trained_tokens"]["ours"] == found["trained_tokens"]["theirs"] >= 6
    assert found["python"] == sys.executable


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "keys"),
    [("orpo", {"beta": 0.1}), ("cpo", {"cpo_alpha": 1.0}), ("simpo", {"simpo_gamma": 0.5, "cpo_alpha": 0.0})],
)
def test_pairs_give_the_same_trained_tokens_in_the_trainers_that_trl_keeps_apart(method, keys, here, capsys):
    rows = [{"prompt": each["prompt"], "chosen": each["completion"], "rejected": " grey"} for each in PAIRS]
    (here / method).mkdir()
    (here / method / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written(here, f"{method}/trl.yaml", dataset_name=f"{method}/pairs.jsonl", max_length=64, **keys)
    code, found = proof(capsys, f"{method}/trl.yaml", "--from", "trl")
    assert (code, found["equal"], found["alike"]) == (EXIT_DONE, True, 3), found
    # Of each row both answers are trained, each a word or two and the end token.
    assert found["trained_tokens"]["ours"] == found["trained_tokens"]["theirs"] >= 12


@pytest.mark.slow
def test_turns_that_trl_trains_whole_differ_in_their_mask_which_is_shown_token_by_token(here, capsys):
    (here / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TURNS))
    written(here, "turns.yaml", dataset_name="turns.jsonl", max_length=64)
    assert main(["recipe", "import", "turns.yaml", "--prove", "--rows", "2"]) == EXIT_GATE
    told = capsys.readouterr().out
    assert "0 rows are equal, 2 differ" in told
    assert "mask: 2 (the same tokens, but others of them are trained); first, row 1 of data:" in told
    there, ours = (
        next(line for line in told.splitlines() if line.startswith(f"    {who}:")) for who in ("there", "here")
    )
    assert "⟦" in there.partition("green")[0]
    assert "⟦" not in ours.partition("⟦green⟧")[0].partition("green")[0].rpartition("|>")[0]


def test_a_tool_without_a_driver_is_refused_before_anything_runs(here, capsys):
    (here / "tune.yaml").write_text("model: {_component_: torchtune.models.llama3_2.llama3_2_1b}\nbatch_size: 1\n")
    assert main(["recipe", "import", "tune.yaml", "--from", "torchtune", "--prove"]) == EXIT_CONFIG
    assert "there is no driver for torchtune" in capsys.readouterr().err


def test_a_tool_that_is_not_at_hand_is_told_with_the_commands_that_make_it(here, capsys, monkeypatch):
    monkeypatch.setattr("ftcli.proofs.peer_process._PEERS", here / "nowhere")
    (here / "rows.json").write_text('[{"instruction": "a", "input": "", "output": "b"}]')
    (here / "axolotl.yaml").write_text(
        "base_model: builtin:tiny\nsequence_len: 64\ndatasets:\n  - path: rows.json\n    type: alpaca\n"
    )
    assert main(["recipe", "import", "axolotl.yaml", "--prove"]) == EXIT_CONFIG
    told = capsys.readouterr().err
    assert "Axolotl is not at hand, and ftcli installs nothing" in told
    assert "python -m venv peer && peer/bin/pip install axolotl==0.19.0, and add --peer-python peer/bin/python" in told


def test_rows_outside_the_recipes_folder_are_read_only_where_the_command_line_allows_it(config, here, capsys):
    shutil.move(here / "rows.jsonl", here.parent / "private.jsonl")
    (here / "rows.jsonl").symlink_to(here.parent / "private.jsonl")
    assert main(["recipe", "import", "trl.yaml", "--prove"]) == EXIT_CONFIG
    told = capsys.readouterr().err
    assert "--prove  the file names what lies outside the recipe's folder: rows.jsonl" in told
    assert "--allow-path" in told


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--rows", "5"], "has no effect without --prove"),
        (["--allow-path"], "has no effect without --prove"),
        (["--peer-python", "python"], "has no effect without --prove"),
        (["--prove", "--rows", "0"], "is out of range"),
        (["--prove", "--peer-python", "no-such-python"], "is no program that can be run"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(config, words, what, capsys):
    assert main(["recipe", "import", "trl.yaml", *words]) == EXIT_CONFIG
    assert what in capsys.readouterr().err


def test_the_other_tool_sees_rows_and_tokenizer_and_nothing_else_of_the_user(config, here, capsys, monkeypatch):
    spy = here / "spy"
    copied = f'cp -r "$(dirname "$PWD")/../tokenizer" {here}/given'
    spy.write_text(f"#!/bin/sh\nenv > {here}/seen\ncat /proc/self/net/dev > {here}/network\n{copied}\n")
    spy.chmod(0o755)
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", str(here))
    assert main(["recipe", "import", "trl.yaml", "--prove", "--peer-python", "spy"]) == EXIT_CONFIG
    assert "ended with 0: it said nothing" in capsys.readouterr().err
    seen = (here / "seen").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in seen if "=" in line)
    assert "HF_TOKEN" not in variables
    assert "PYTHONPATH" not in variables
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["HOME"] != os.environ.get("HOME")
    if shutil.which("unshare") and not subprocess.run(["unshare", "--map-root-user", "--net", "true"]).returncode:
        interfaces = [line.split(":")[0].strip() for line in (here / "network").read_text().splitlines()[2:]]
        assert interfaces == ["lo"]
    assert not any(file.suffix in (".safetensors", ".py") for file in (here / "given").iterdir())
