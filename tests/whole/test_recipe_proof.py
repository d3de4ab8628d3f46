"""A recipe with its proof: run → save → lock → another folder and home → reproduced bit for bit; a flipped byte is
refused by the name of its file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.cli import main
from ftcli.recipes import recipe_lock
from ftcli.runs import rundir
from tests.conftest import REPOSITORY, MakeOnce
from tests.whole.conftest import Train

BRIEF = (
    "train", "train.max_steps=2", "train.eval_strategy=no", "train.save_strategy=no", "run.score_rows=0",
    "hardware=cpu", "hardware.num_threads=1", "peft=lora", "model.name_or_path=model", "data.path=rows.jsonl",
)  # fmt: skip
CARRIED = ("short.yaml", "short.lock", "rows.jsonl")


@pytest.fixture(scope="module")
def proof(once: MakeOnce, ftcli_run: Train) -> Path:
    """A folder with rows, a model, a run of them, and its recipe and lock."""

    def make(folder: Path) -> None:
        rows = [{"prompt": f"Say {n}.", "completion": f"{n}"} for n in range(24)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        shutil.copytree(tiny.MODEL_DIR, folder / "model")
        ftcli_run(*BRIEF, "run.dir=first", cwd=folder)
        ftcli_run("recipe", "save", "first", "--to", "short.yaml", cwd=folder)
        ftcli_run("recipe", "lock", "short.yaml", "first", cwd=folder)

    return once("proof", make)


def carried(proof: Path, folder: Path) -> Path:
    """What somebody else gets: recipe, lock, rows and model, and nothing of the run."""
    folder.mkdir()
    for name in CARRIED:
        shutil.copy(proof / name, folder / name)
    shutil.copytree(proof / "model", folder / "model")
    return folder


@pytest.fixture
def elsewhere(proof: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in the working directory."""
    monkeypatch.chdir(carried(proof, tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"


def test_a_recipe_is_reproduced_bit_for_bit_by_somebody_else(proof: Path, tmp_path: Path, ftcli_run: Train) -> None:
    theirs = carried(proof, tmp_path / "theirs")
    (tmp_path / "home").mkdir()
    words = ("reproduce", "short.yaml", "run.dir=again", "--json")
    done = ftcli_run(*words, cwd=theirs, HOME=str(tmp_path / "home"), PYTHONPATH=str(REPOSITORY))
    found = json.loads(done.stdout)
    assert found["exact"] is True
    assert found["reproduced"] is True
    assert {each["state"] for each in found["compared"]} == {"same"}
    assert {"tokens", "ledger", "metrics", "weights"} <= {each["what"] for each in found["compared"]}
    weights = "model/adapter_model.safetensors"
    assert (theirs / "again" / weights).read_bytes() == (proof / "first" / weights).read_bytes()
    text = (theirs / "short.yaml").read_text(encoding="utf-8") + (theirs / "short.lock").read_text(encoding="utf-8")
    assert str(proof) not in text


def test_a_saved_recipe_tells_what_was_measured_on_what(proof: Path) -> None:
    head = (proof / "short.yaml").read_text(encoding="utf-8").splitlines()[:3]
    assert head[1].startswith("# measured: loss ")
    for word in ("2 steps", "seconds", "peak memory", "GiB"):
        assert word in head[1]
    assert head[2].startswith("# on: ")
    assert "torch" in head[2]


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(bytes(raw))


MODEL = sorted(each.name for each in tiny.MODEL_DIR.iterdir() if each.suffix in (".json", ".jinja", ".safetensors"))


@pytest.mark.parametrize("name", [*CARRIED, *(f"model/{name}" for name in MODEL)])
@pytest.mark.parametrize("command", [["train", "recipe=short.yaml", "--locked"], ["reproduce", "short.yaml"]])
def test_a_flipped_byte_is_refused_by_name(name: str, command: list[str], elsewhere: Path, capsys) -> None:
    flip(elsewhere / name)
    assert main(command) in (2, 3)
    told = capsys.readouterr().err
    assert Path(name).name in told
    assert "fix: " in told
    assert not (elsewhere / "runs").exists()


def test_what_is_not_there_or_was_added_is_told(elsewhere: Path, capsys) -> None:
    (elsewhere / "model/vocab.json").write_text("{}", encoding="utf-8")
    assert main(["train", "recipe=short.yaml", "--locked"]) == 2
    assert "vocab.json  is read, and is not in the lock" in capsys.readouterr().err
    (elsewhere / "model/vocab.json").unlink()
    (elsewhere / "model/generation_config.json").unlink()
    assert main(["train", "recipe=short.yaml", "--locked"]) == 2
    assert "generation_config.json  is locked, and is not here" in capsys.readouterr().err
    (elsewhere / "short.lock").unlink()
    assert main(["reproduce", "short.yaml"]) == 2
    assert "the lock cannot be read" in capsys.readouterr().err


def test_a_locked_recipe_is_planned_as_it_is_and_takes_nothing_beside_it(elsewhere: Path, capsys) -> None:
    assert main(["train", "recipe=short.yaml", "--locked", "--dry-run"]) == 0
    capsys.readouterr()
    assert main(["train", "recipe=short.yaml", "--locked", "seed=3"]) == 2
    assert "seed=3  is set beside a locked recipe" in capsys.readouterr().err
    assert main(["train", "seed=3", "--locked"]) == 2
    assert "needs a recipe" in capsys.readouterr().err
    assert main(["train", "--locked", "--from", "x"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def sealed(elsewhere: Path, **change: object) -> None:
    """Change what a lock says, with its digest."""
    from dataclasses import replace

    recipe_lock.write(
        elsewhere / "short.lock",
        replace(recipe_lock.read(elsewhere / "short.lock"), **change),  # type: ignore[arg-type]
    )


def test_other_packages_are_refused_by_train_and_told_by_reproduce(proof: Path, elsewhere: Path, capsys) -> None:
    lock = recipe_lock.read(elsewhere / "short.lock")
    sealed(elsewhere, machine={**lock.machine, "packages": {**lock.machine["packages"], "torch": "1.0"}})
    assert main(["train", "recipe=short.yaml", "--locked"]) == 2
    assert "torch 1.0 is locked" in capsys.readouterr().err
    assert main(["reproduce", "short.yaml", "--run", str(proof / "first")]) == 0
    told = capsys.readouterr()
    assert "torch 1.0 is locked" in told.err
    assert "losses within 2%" in told.out
    assert told.out.endswith("reproduced\n")


def test_a_result_that_is_not_the_locked_one_ends_with_its_own_code(proof: Path, elsewhere: Path, capsys) -> None:
    lock = recipe_lock.read(elsewhere / "short.lock")
    assert main(["reproduce", "short.yaml", "--run", str(proof / "first")]) == 0
    sealed(elsewhere, outcome={**lock.outcome, "weights": {"adapter_model.safetensors": "0" * 64}})
    assert main(["reproduce", "short.yaml", "--run", str(proof / "first")]) == 9
    assert "not reproduced: weights" in capsys.readouterr().out


def test_a_grant_of_the_locked_run_is_asked_for_again(elsewhere: Path, capsys) -> None:
    sealed(elsewhere, grants=("--trust-reward-code",))
    assert main(["reproduce", "short.yaml"]) == 2
    assert "was granted --trust-reward-code, which counts on each command line anew" in capsys.readouterr().err


def test_only_a_finished_run_of_the_same_recipe_is_locked(proof: Path, elsewhere: Path, capsys) -> None:
    shutil.copytree(proof / "first", elsewhere / "first")
    (elsewhere / "short.lock").unlink()
    recipe = elsewhere / "short.yaml"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("max_steps: 2", "max_steps: 3"), encoding="utf-8")
    assert main(["recipe", "lock", "short.yaml", "first"]) == 2
    assert "train.max_steps is 3 in the recipe, and was 2 in the run" in capsys.readouterr().err
    recipe.write_text(text, encoding="utf-8")
    flip(elsewhere / "rows.jsonl")
    assert main(["recipe", "lock", "short.yaml", "first"]) in (2, 3)
    assert "rows.jsonl" in capsys.readouterr().err
    shutil.copy(proof / "rows.jsonl", elsewhere / "rows.jsonl")
    (elsewhere / "first" / rundir.RESULT).unlink()
    assert main(["recipe", "lock", "short.yaml", "first"]) == 2
    assert "is not finished" in capsys.readouterr().err
    assert not (elsewhere / "short.lock").exists()
