"""`ftcli merge` on the built-in model as a user types it: the difference that it prints for every kind of adapter."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.core.errors import ConfigError
from ftcli.runs import rundir
from tests.conftest import MakeOnce
from tests.whole.conftest import Train

BRIEF = (
    "train", "model=tiny", "data.path=rows.jsonl", "data.eval_share=0.25", "train.max_steps=3", "run.score_rows=0",
    "train.save_strategy=no", "hardware=cpu", "hardware.num_threads=1",
)  # fmt: skip
ROWS = "".join(json.dumps({"prompt": f"Add {n} and 1.", "completion": str(n + 1)}) + "\n" for n in range(48))
KINDS = {"lora": ("peft=lora",), "dora": ("peft=dora",), "ia3": ("peft=ia3",), "qlora": ("peft=qlora",)}
NUMBERS = re.compile(
    r"compared with the model as it was trained, in (\w+)\n"
    r" +measured on +(\d+) tokens of 12 held-out rows\n"
    r" +divergence +(\S+) nats a token\n"
    r" +same next token +([\d.]+)%\n"
    r" +largest difference +(\S+) in a logit\n"
    r" +verdict +(good|fair|poor): "
)


@pytest.fixture(scope="module")
def made(once: MakeOnce, ftcli_run: Train) -> Path:
    """A run of each kind, and a second one with LoRA."""

    def make(folder: Path) -> None:
        (folder / "rows.jsonl").write_text(ROWS, encoding="utf-8")
        for name, words in {**KINDS, "other": ("peft=lora", "seed=9")}.items():
            ftcli_run(*BRIEF, *words, f"run.dir={name}", cwd=folder)

    return once("merged", make)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_prints_how_far_the_served_model_is_from_the_trained_one(kind, made, tmp_path, ftcli_run):
    said = ftcli_run("merge", kind, "--to", str(tmp_path / "out"), "--dtype", "bfloat16", cwd=made).stdout
    found = NUMBERS.search(said)
    assert found, said
    dtype, tokens, divergence, same, largest, verdict = found.groups()
    assert dtype == "bfloat16"
    assert int(tokens) >= 24
    assert verdict == ("good" if float(divergence) <= 0.01 else "fair" if float(divergence) <= 0.1 else "poor")
    assert float(largest) > 0
    # Four bits change so small a model; rounding to bfloat16 does not.
    assert verdict == ("poor" if kind == "qlora" else "good")
    assert float(same) >= (0 if kind == "qlora" else 90)
    assert f"next\n  ftcli chat {tmp_path}/out\n" in said
    assert (tmp_path / "out/README.md").is_file()


def test_a_quantised_run_merges_into_what_it_saw(made, tmp_path, ftcli_run):
    words = ("merge", "qlora", "--to", str(tmp_path / "out"), "--base", "dequantised", "--dtype", "float32", "--json")
    answer = json.loads(ftcli_run(*words, cwd=made).stdout)
    [difference] = answer["differences"]
    assert difference["divergence"] < 1e-6
    assert "qlora" in json.dumps(answer["provenance"])


def test_two_adapters_merge_by_ties_and_each_is_compared_with_its_own_run(made, tmp_path, ftcli_run):
    words = ("merge", "lora", "other", "--how", "ties", "--density", "0.6", "--to", str(tmp_path / "both"))
    said = ftcli_run(*words, cwd=made).stdout
    assert "combined  ties, weights 1, 1, density 0.6" in said
    assert re.findall(r"^compared with (\w+), in bfloat16$", said, re.M) == ["lora", "other"]
    assert len(re.findall(r"\d+ tokens of 12 held-out rows\n +divergence", said)) == 2


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["lora", "--how", "ties"], "--how without effect: one adapter is merged as it is"),
        (["lora", "--weights", "1", "--density", "0.5"], "--weights and --density without effect"),
        (["lora", "other", "--to", "x", "--density", "0.5"], "has no effect with --how linear"),
        (["lora", "other", "--to", "x", "--how", "ties", "--density", "0"], "is out of range"),
        (["lora", "other", "--to", "x", "--weights", "0.5,half"], "is not a number for each of 2 runs"),
        (["lora", "other", "--to", "x", "--weights", "0.5"], "is not a number for each of 2 runs"),
        (["lora", "other"], "no folder for their model"),
        (["lora", "--rows", "0"], "is out of range"),
        (["lora", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["rows.jsonl"], "rows.jsonl holds no model"),
        (["lora", "--to", "ia3"], "ia3 already exists"),
    ],
)
def test_flags_without_effect_and_wrong_words_are_refused(words, what, made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    before = sorted(made.rglob("*"))
    assert main(["merge", *words]) == ConfigError.exit_code
    assert what in capsys.readouterr().err
    assert sorted(made.rglob("*")) == before


def test_a_run_that_is_not_finished_has_nothing_to_merge(made, tmp_path, monkeypatch, capsys):
    half = tmp_path / "half"
    half.mkdir()
    (half / rundir.SPEC).write_bytes((made / "lora" / rundir.SPEC).read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["merge", "half"]) == ConfigError.exit_code
    assert "half holds no model" in capsys.readouterr().err
    assert [each.name for each in half.iterdir()] == [rundir.SPEC]
