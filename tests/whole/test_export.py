"""`ftcli export` as a user types it: what is written, whole or not at all, and the line that serves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftcli.cli import export, main
from ftcli.core.errors import CheckpointError, ConfigError, DiskError
from ftcli.runs import rundir
from ftcli.runs.checkpoints import verify, write_manifest
from tests.conftest import MakeOnce
from tests.whole.conftest import Train, everything

BRIEF = (
    "train", "model=tiny", "data.path=rows.jsonl", "data.eval_share=0.25", "train.max_steps=1", "run.score_rows=0",
    "train.save_strategy=no", "hardware=cpu", "hardware.num_threads=1",
)  # fmt: skip
ROWS = "".join(json.dumps({"prompt": f"Add {n} and 1.", "completion": str(n + 1)}) + "\n" for n in range(16))
KINDS = {"lora": ("peft=lora",), "dora": ("peft=dora",), "full": ("peft=none",), "prefix": ("peft=prefix",)}


@pytest.fixture(scope="module")
def made(once: MakeOnce, ftcli_run: Train) -> Path:
    """A run of each kind."""

    def make(folder: Path) -> None:
        (folder / "rows.jsonl").write_text(ROWS, encoding="utf-8")
        for name, words in KINDS.items():
            ftcli_run(*BRIEF, *words, f"run.dir={name}", cwd=folder)

    return once("exported", make)


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these runs, in the working directory."""
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def exported(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["export", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_an_adapter_becomes_a_folder_that_everybody_reads(made, tmp_path, ftcli_run):
    said = ftcli_run("export", "lora", "--out", str(tmp_path / "out"), cwd=made).stdout
    assert "compared with the model as it was trained" in said
    assert f"ftcli chat {tmp_path}/out" in said
    assert f"mlx_lm.server --model {tmp_path}/out" in said
    names = {each.name for each in (tmp_path / "out").iterdir()}
    assert names >= {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "README.md"}
    assert verify(tmp_path / "out", needs=()) == []
    answer = ftcli_run("generate", str(tmp_path / "out"), "Add 1 and 1.", "--max-new-tokens", "2", cwd=tmp_path)
    assert answer.stdout.startswith("> Add")


def test_the_command_that_compares_an_export_with_a_run_of_a_built_in_set_works(tmp_path, ftcli_run):
    words = [word for word in BRIEF if not word.startswith("data.")]
    ftcli_run(*words, "recipe=demo", "run.dir=demo", cwd=tmp_path)
    said = ftcli_run("export", "demo", cwd=tmp_path).stdout
    words = next(line for line in said.splitlines() if "ftcli verify demo --at" in line).split()[1:]
    assert "served as trained" in ftcli_run(*words, "--rows", "4", cwd=tmp_path).stdout


def test_a_full_model_is_copied_as_it_is(here, capsys):
    found = exported(capsys, "full")
    assert found["folder"] == str(here / "full/export/folder")
    assert found["merge"] is None
    own, other = here / "full/model/model.safetensors", here / "full/export/folder/model.safetensors"
    assert own.read_bytes() == other.read_bytes()
    assert found["files"]["model.safetensors"] == own.stat().st_size


def test_vllm_serves_a_lora_adapter_on_its_base_with_what_it_was_trained_with(here, capsys):
    found = exported(capsys, "lora", "--to", "vllm", "--out", "out")
    line, compared = found["next"]
    assert compared == "ftcli verify lora --at http://127.0.0.1:8000/v1 --as lora"
    rank = json.loads((here / "lora/model/adapter_config.json").read_text())["r"]
    assert line.startswith("vllm serve /")
    assert (
        f"--enable-lora --max-lora-rank {rank} --lora-modules lora=out --tokenizer out --generation-config out" in line
    )
    assert (here / "out/adapter_model.safetensors").is_file()
    assert found["merge"] is None


def test_vllm_gets_one_model_where_it_does_not_serve_the_adapter(made, tmp_path, ftcli_run):
    words = ("export", "dora", "--to", "vllm", "--out", str(tmp_path / "out"), "--json")
    found = json.loads(ftcli_run(*words, cwd=made).stdout)
    assert found["notes"] == ["merged into one model: vLLM serves LoRA adapters alone"]
    assert found["next"] == [
        f"vllm serve {tmp_path}/out --served-model-name dora",
        "ftcli verify dora --at http://127.0.0.1:8000/v1 --as dora",
    ]
    assert (tmp_path / "out/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["lora", "--to", "gguff"], "gguff is no format"),
        (["lora", "--to", "gguf:q9"], "q9 is no type of gguf"),
        (["lora", "--to", "folder:q8_0"], "folder has no types to choose from"),
        (["lora", "--to", "vllm", "--dtype", "float16"], "has no effect: nothing is merged"),
        (["lora", "--to", "gguf", "--dtype", "float16"], "has no effect: the file has a type of its own"),
        (["full", "--dtype", "float16"], "has no effect: nothing is merged"),
        (["prefix"], "a PREFIX_TUNING adapter cannot be merged"),
        (["lora", "--out", "full"], "full already exists"),
        (["rows.jsonl"], "rows.jsonl holds no model"),
        (["some/model"], "some/model is not on this machine"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(words, what, here, capsys):
    before = everything(here)
    assert main(["export", *words]) == ConfigError.exit_code
    assert what in capsys.readouterr().err
    assert everything(here) == before


def test_a_disk_without_room_is_told_of_before_it_is_written_to(here, capsys, monkeypatch):
    usage = shutil.disk_usage(here)
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    before = everything(here)
    assert main(["export", "full"]) == DiskError.exit_code
    assert "GiB are free" in capsys.readouterr().err
    assert everything(here) == before


def test_an_export_that_fails_half_way_leaves_nothing(here, capsys, monkeypatch):
    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "publish", broken)
    assert main(["export", "full"]) != 0
    assert not [*(here / "full/export").iterdir()]


def test_verify_looks_at_exports_for_other_programs(tmp_path, capsys):
    (tmp_path / "made").mkdir()
    (tmp_path / "made/a-q8_0.gguf").write_bytes(b"GGUF and more")
    write_manifest(tmp_path / "made")
    assert main(["verify", str(tmp_path / "made")]) == 0
    (tmp_path / "made/a-q8_0.gguf").write_bytes(b"GGUF and mire")
    assert main(["verify", str(tmp_path / "made")]) == CheckpointError.exit_code
    assert "a-q8_0.gguf does not match its sha256" in capsys.readouterr().out


def test_damaged_half_finished_and_strange_runs_are_told_and_left_as_they_are(here, capsys):
    shutil.rmtree(here / "dora/model")
    (here / "lora" / rundir.SPEC).write_text("{}")
    outside = here.parent / "secret.json"
    outside.write_text("{}")
    (here / "full/model/config.json").unlink()
    (here / "full/model/config.json").symlink_to(outside)
    before = everything(here)
    for name, what in (("dora", "dora holds no model"), ("lora", "spec.json"), ("full", "leads out of")):
        assert main(["export", name]) == ConfigError.exit_code
        assert what in capsys.readouterr().err
    assert everything(here) == before
