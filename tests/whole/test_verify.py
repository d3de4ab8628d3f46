"""`ftcli verify` on runs that were really made: whole ones pass, and each planted fault is named, with exit code 5."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftcli.cli import main
from ftcli.runs import checkpoints, rundir
from tests.conftest import REPOSITORY, MakeOnce
from tests.whole.conftest import Train

BRIEF = (
    "train", "train.max_steps=2", "train.save_strategy=steps", "train.save_steps=1", "train.eval_strategy=no",
    "run.score_rows=0", "hardware=cpu", "hardware.num_threads=1",
)  # fmt: skip
MODEL = "adapter/model/adapter_model.safetensors"
WHOLE = (
    "spec.json", "result.json", "ledger.json", "metrics.jsonl", "checkpoints/checkpoint-1", "checkpoints/checkpoint-2",
    "model/", "inputs.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(once: MakeOnce, ftcli_run: Train) -> Path:
    """A run with LoRA, its merged model, and a full run that was stopped after its first checkpoint."""

    def make(folder: Path) -> None:
        rows = [{"prompt": f"Say {n}.", "completion": f"{n}"} for n in range(24)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        ftcli_run(*BRIEF, "peft=lora", "data.path=rows.jsonl", "run.dir=adapter", cwd=folder)
        ftcli_run("merge", "adapter", cwd=folder)
        ftcli_run(*BRIEF, "peft=none", "data.path=rows.jsonl", "run.dir=full", cwd=folder)
        (folder / "full" / rundir.RESULT).unlink()

    return once("verified", make)


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these runs, in the working directory."""
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def verified(name: str, capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    """What verify says of a folder, as data."""
    assert main(["verify", name, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["whole"] == (code == 0)
    return found


def test_what_was_made_is_whole(here: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    run = verified("adapter", capsys, 0)
    assert run["kind"] == "run"
    assert {each["what"]: each["state"] for each in run["verdicts"]} == dict.fromkeys(WHOLE, "ok")
    assert verified("adapter/model", capsys, 0)["kind"] == "model"
    assert verified("adapter/merged", capsys, 0)["verdicts"][0]["state"] == "ok"
    assert verified("adapter/checkpoints/checkpoint-1", capsys, 0)["kind"] == "checkpoint"
    assert [each for each in verified("full", capsys, 0)["verdicts"] if each["state"] == "note"] != []  # unfinished
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


def flip(file: Path) -> None:
    """Change one bit of the last byte."""
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(bytes(raw))


def resealed(folder: Path) -> None:
    """Change weights, and the manifest with them."""
    flip(folder / "adapter_model.safetensors")
    checkpoints.write_manifest(folder)


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


RUN = Path("adapter")
CHECKPOINT = RUN / "checkpoints" / "checkpoint-2"
PLANTED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a flipped bit in the final weights": (
        lambda: flip(Path(MODEL)), "model/", "adapter_model.safetensors does not match its sha256",
    ),
    "weights changed with their manifest": (
        lambda: resealed(RUN / "model"), "model/", "manifest.json is not the one that the run wrote",
    ),
    "no manifest": (lambda: (RUN / "model" / "manifest.json").unlink(), "model/", "manifest.json is missing"),
    "weights cut": (lambda: os.truncate(MODEL, 5000), "model/", "adapter_model.safetensors has"),
    "weights cut in the header": (lambda: os.truncate(MODEL, 100), "model/", "is cut within its header"),
    "no weights": (lambda: Path(MODEL).unlink(), "model/", "there are no weights"),
    "no tokenizer": (lambda: (RUN / "model" / "tokenizer.json").unlink(), "model/", "it has no tokenizer"),
    "a tokenizer of half a file": (
        lambda: os.truncate(RUN / "model" / "tokenizer.json", 1000), "model/", "tokenizer.json cannot be read",
    ),
    "no base": (
        lambda: edit(RUN / "model" / "adapter_config.json", lambda c: c.update(base_model_name_or_path="/gone")),
        "model/", "its base model is not there: /gone",
    ),
    "no model": (lambda: shutil.rmtree(RUN / "model"), "model", "its model is not there"),
    "a pipe for weights": (
        lambda: (Path(MODEL).unlink(), os.mkfifo(MODEL)), "model/adapter_model.safetensors", "is no file but a pipe",
    ),
    "no optimizer": (
        lambda: (CHECKPOINT / "optimizer.pt").unlink(), "checkpoints/checkpoint-2", "optimizer.pt is missing",
    ),
    "a linked checkpoint": (
        lambda: CHECKPOINT.symlink_to(CHECKPOINT.rename(CHECKPOINT.with_name("moved")).name),
        "checkpoints/checkpoint-2", "it is a link, not a folder",
    ),
    "a damaged spec": (lambda: os.truncate(RUN / "spec.json", 200), "spec.json", "is not a run spec"),
    "a spec with a value of another type": (
        lambda: edit(RUN / "spec.json", lambda c: c["train"].update(max_steps="many")), "spec.json", "max_steps",
    ),
    "a link out of the run": (lambda: (RUN / "notes").symlink_to("/etc/hostname"), "notes", "leads out"),
    "a damaged result": (lambda: os.truncate(RUN / "result.json", 50), "result.json", "is damaged"),
    "a damaged ledger": (lambda: (RUN / "ledger.json").write_text("[]"), "ledger.json", "is no row ledger"),
    "no ledger": (lambda: (RUN / "ledger.json").unlink(), "ledger.json", "is missing"),
    "a cut line of metrics": (
        lambda: os.truncate(RUN / "metrics.jsonl", 30), "metrics.jsonl", "line 1 is not JSON",
    ),
    "metrics in another order": (
        lambda: (RUN / "metrics.jsonl").write_text('{"step": 2}\n{"step": 1}\n'), "metrics.jsonl",
        "line 2 is of step 1, after one of step 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named(name: str, here: Path, capsys: pytest.CaptureFixture[str]):
    plant, what, detail = PLANTED[name]
    plant()
    faults = [each for each in verified("adapter", capsys, 5)["verdicts"] if each["state"] == "fault"]
    assert [each for each in faults if each["what"] == what and detail in each["detail"] and each["fix"]], faults
    assert main(["verify", "adapter"]) == 5
    printed = capsys.readouterr().out
    assert detail in printed
    assert "fix: " in printed


def test_an_unfinished_run_needs_the_rows_that_it_began_with(here: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("full", "adapter"):  # a copy reads the rows where they were
        edit(here / name / "spec.json", lambda spec: spec["data"].update(path=str(here / "rows.jsonl")))
    assert {each["what"]: each["state"] for each in verified("full", capsys, 0)["verdicts"]}["inputs.json"] == "ok"
    with open(here / "rows.jsonl", "a", encoding="utf-8") as file:
        file.write('{"prompt": "Say more.", "completion": "more"}\n')
    [fault] = [each for each in verified("full", capsys, 5)["verdicts"] if each["state"] == "fault"]
    assert "has changed since the run began" in fault["detail"]
    assert "--from" in fault["fix"]
    # The run that is finished needs them no more: it is whole, and told that they are others now.
    assert {each["what"]: each["state"] for each in verified("adapter", capsys, 0)["verdicts"]}["inputs.json"] == "note"


def test_a_pipeline_is_verified_stage_by_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "rlaif"
    shutil.copytree(REPOSITORY / "tests" / "fixtures" / "v0_1" / "runs" / "rlaif", folder)
    found = verified(str(folder), capsys, 0)
    assert found["kind"] == "pipeline"
    digests = [each["detail"] for each in found["verdicts"] if each["what"] == "dpo/model/"]
    assert digests[0].startswith("no digests")  # it was made before there were any
    items = folder / "judge" / "items.jsonl"
    items.write_bytes(items.read_bytes()[:-5])
    (folder / "sample" / "data.jsonl").unlink()
    faults = {each["what"] for each in verified(str(folder), capsys, 5)["verdicts"] if each["state"] == "fault"}
    assert faults == {"judge/items.jsonl", "sample/data.jsonl"}
    (folder / rundir.PIPELINE).write_text("{")
    [fault] = verified(str(folder), capsys, 5)["verdicts"]
    assert (fault["what"], fault["detail"]) == ("pipeline.json", "is damaged")


def test_what_is_nothing_of_ours_is_a_mistake_and_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / "empty")]) == 2
    assert main(["verify", "no-such-run"]) == 2
    assert "is not a run" in capsys.readouterr().err
