"""The folder of a run that a colleague copied: what it read is found beside it, byte for byte, or asked for by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.build.inputs import run_inputs
from ftcli.build.resolve import spec_of
from ftcli.build.resume import adopted, resumed_spec, spec_from
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec

ROW = json.dumps({"prompt": "a", "completion": "b"}) + "\n"


@pytest.fixture
def copied(here: Path) -> Path:
    """A run whose author's folder is gone; rows and model lie beside it."""
    author = here / "author"
    author.mkdir()
    (author / "rows.jsonl").write_text(ROW * 8, encoding="utf-8")
    shutil.copytree(tiny.MODEL_DIR, author / "model")
    overrides = ("data.path=author/rows.jsonl", "model.name_or_path=author/model", "peft=lora")
    spec = spec_of(Request(overrides=overrides))
    run = here / "theirs/run"
    run.mkdir(parents=True)
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    run_inputs.record(spec, run)
    shutil.move(author / "rows.jsonl", here / "theirs/rows.jsonl")
    shutil.move(author / "model", run / "model")  # in the run's own folder, which is looked at first
    author.rmdir()
    return run


def made(run: Path, *overrides: str) -> RunSpec:
    return spec_from(run, Request(overrides=overrides))


@pytest.mark.parametrize("overrides", [(), ("run.name=again",), ("seed=7",)])
def test_rows_and_model_are_found_beside_the_run(copied: Path, overrides: tuple[str, ...]) -> None:
    spec = made(copied, *overrides)
    assert spec.data.path == str(copied.parent / "rows.jsonl")
    assert spec.model.name_or_path == str(copied / "model")
    assert "author" not in json.dumps(spec.tree)
    told = {note.key: note.why for note in spec.notes if "beside the run" in note.why}
    assert set(told) == {"data.path", "model.name_or_path"}
    # A run that starts so has them for good: it needs no search.
    assert dict(run_inputs.files_of(spec))["data.path:rows.jsonl"] == str(copied.parent / "rows.jsonl")


def test_what_has_other_bytes_is_not_taken(copied: Path) -> None:
    (copied.parent / "rows.jsonl").write_text(ROW * 9, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"has the name of the run's data\.path, and is not what the run read"):
        made(copied)
    (copied.parent / "rows.jsonl").write_text(ROW * 8, encoding="utf-8")
    raw = bytearray((copied / "model/model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copied / "model/model.safetensors").write_bytes(bytes(raw))
    with pytest.raises(ConfigError, match=r"the run's model\.name_or_path, and is not what the run read"):
        made(copied)


def test_what_is_not_here_is_asked_for_by_its_name_and_compared(copied: Path, capsys) -> None:
    elsewhere = copied.parent.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.move(copied.parent / "rows.jsonl", elsewhere / "mine.jsonl")
    assert main(["plan", "--from", str(copied)]) == 2
    error = capsys.readouterr().err
    assert "data.path of the run is not here" in error
    assert "or say where it is: data.path=PATH" in error
    spec = made(copied, f"data.path={elsewhere}/mine.jsonl")
    assert spec.data.path == f"{elsewhere}/mine.jsonl"
    assert "what the run read, byte for byte" in {note.why for note in spec.notes if note.key == "data.path"}
    (elsewhere / "mine.jsonl").write_text(ROW * 9, encoding="utf-8")
    notes = made(copied, f"data.path={elsewhere}/mine.jsonl").notes
    assert "NOT what the run read: other bytes" in {note.why for note in notes if note.key == "data.path"}
    assert main(["check", "--from", str(copied), f"data.path={elsewhere}/mine.jsonl"]) == 0


def test_a_run_whose_files_are_where_they_were_is_not_searched_for(here: Path) -> None:
    (here / "rows.jsonl").write_text(ROW * 8, encoding="utf-8")
    spec = spec_of(Request(overrides=("data.path=rows.jsonl",)))
    run = here / "run"
    run.mkdir()
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    run_inputs.record(spec, run)
    (here / "rows.jsonl").write_text(ROW * 9, encoding="utf-8")  # changed since, as --from allows
    assert made(run).notes == spec.notes


def test_a_name_that_leaves_the_folder_is_not_followed(copied: Path) -> None:
    secret = copied.parent.parent / "secret.jsonl"
    secret.write_text(ROW * 8, encoding="utf-8")
    for path in ("/nowhere/..", "/nowhere/.", "/nowhere/\0"):
        content = json.loads((copied / rundir.SPEC).read_text(encoding="utf-8"))
        content["data"]["path"] = content["tree"]["data"]["path"] = path
        (copied / rundir.SPEC).write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ConfigError):
            made(copied, "seed=1")


def test_a_copied_run_is_resumed_with_what_lies_beside_it(copied: Path) -> None:
    before = (copied / rundir.SPEC).read_bytes()
    spec = resumed_spec(copied, ["train.max_steps=9"])
    assert (spec.data.path, spec.train["max_steps"]) == (str(copied.parent / "rows.jsonl"), 9)
    assert (copied / rundir.SPEC).read_bytes() == before  # so far it was only looked at
    said: list[str] = []
    assert adopted(copied, ["train.max_steps=9"], said.append) == ("train.max_steps=9",)
    assert len(said) == 2
    kept = RunSpec.load(copied / rundir.SPEC)
    assert (kept.data.path, kept.model.name_or_path) == (str(copied.parent / "rows.jsonl"), str(copied / "model"))
    assert "author" not in (copied / rundir.INPUTS).read_text(encoding="utf-8")
    assert run_inputs.require_unchanged(kept, copied) == ""
    # A copy of the copy is found again.
    again = copied.parent.parent / "again/run"
    shutil.copytree(copied, again)
    shutil.move(copied.parent / "rows.jsonl", again.parent / "rows.jsonl")
    shutil.rmtree(copied)
    assert resumed_spec(again, []).data.path == str(again.parent / "rows.jsonl")


def test_a_resume_takes_what_is_named_only_if_it_is_what_the_run_read(copied: Path) -> None:
    elsewhere = copied.parent.parent / "mine.jsonl"
    shutil.move(copied.parent / "rows.jsonl", elsewhere)
    with pytest.raises(ConfigError, match=r"or say where it is: data\.path=PATH"):
        resumed_spec(copied, [])
    assert resumed_spec(copied, [f"data.path={elsewhere}"]).data.path == str(elsewhere)
    before = (copied / rundir.SPEC).read_bytes()
    raw = elsewhere.read_bytes()
    elsewhere.write_bytes(raw + raw)
    for words in ([f"data.path={elsewhere}"], [f"data.path={elsewhere}.gone"]):
        with pytest.raises(ConfigError, match="a resumed run needs what it began with"):
            adopted(copied, words, print)
    assert (copied / rundir.SPEC).read_bytes() == before
    elsewhere.write_bytes(raw)
    assert adopted(copied, [f"data.path={elsewhere}", "train.max_steps=9"], print) == ("train.max_steps=9",)
    # Now that it is here, its rows are not changed.
    with pytest.raises(ConfigError, match="cannot change on resume"):
        resumed_spec(copied, [f"data.path={elsewhere}"])
