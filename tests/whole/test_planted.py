"""A pipeline's folder that somebody else has had: what lies in it grants nothing and sends nothing anywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.runs import rundir
from ftcli.synthesis.synthesis_spec import FILE
from tests.loopback import serving
from tests.whole.conftest import Train, everything

CANARY = "sk-canary-8e21d7"
ITEMS = 4
# Its judge finds every answer equal, so that no row comes of it: a data-making stage that has begun and is unfinished.
COMMAND = (
    "train", "method=rlaif", "run.dir=p", "hardware=cpu", "hardware.num_threads=1",
    f"stages.assistant.model={tiny.MODEL_DIR}", f"stages.sft.model={tiny.MODEL_DIR}",
    "stages.sample.data.path=prompts.jsonl", "stages.sample.make.n=2", "stages.sample.make.max_new_tokens=4",
    "judge=rules", "judge.patterns=[zzz]",
)  # fmt: skip
MODELLING = """\
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({marker!r}).touch()
class Config(LlamaConfig):
    model_type = "planted"
class Model(LlamaForCausalLM):
    config_class = Config
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, ftcli_run: Train) -> Path:
    """The folder of such a pipeline."""
    folder = tmp_path_factory.mktemp("begun")
    rows = [json.dumps({"prompt": f"Add {i} and 4 for me."}) + "\n" for i in range(ITEMS)]
    (folder / "prompts.jsonl").write_text("".join(rows), encoding="utf-8")
    ftcli_run(*COMMAND, cwd=folder, expect=3)
    assert not (folder / "p" / "judge" / rundir.RESULT).exists()
    return folder / "p"


@pytest.fixture
def planted(begun: Path, tmp_path: Path) -> Callable[..., Path]:
    """Another's copy of it, in which the judge's make.json is as he likes it and half of the items are to be made."""

    def plant(**changed: Any) -> Path:
        copy = tmp_path / "p"
        shutil.copytree(begun, copy)
        file = copy / "judge" / FILE
        spec = json.loads(file.read_text(encoding="utf-8"))
        spec["backend"] |= changed.pop("backend", {})
        file.write_text(json.dumps({**spec, "grants": ["--allow-endpoint", "--trust-remote-code"], **changed}))
        items = copy / "judge" / "items.jsonl"
        items.write_bytes(b"".join(items.read_bytes().splitlines(keepends=True)[: ITEMS // 2]))
        return copy

    return plant


class Recorder(BaseHTTPRequestHandler):
    """Answers nothing useful, and keeps what it was sent."""

    server: Any

    def do_POST(self) -> None:
        self.server.seen.append(self.headers.get("Authorization"))
        self.send_response(400)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def stranger(folder: Path) -> tuple[Path, Path]:
    """A model that runs code of its own where it may, and the file that the code would leave behind."""
    marker = folder / "ran"
    shutil.copytree(tiny.MODEL_DIR, folder / "model")
    (folder / "model" / "modelling.py").write_text(MODELLING.format(marker=str(marker)), encoding="utf-8")
    config = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
    of_auto = {"AutoConfig": "modelling.Config", "AutoModelForCausalLM": "modelling.Model"}
    rundir.write_json(folder / "model" / "config.json", {**config, "model_type": "planted", "auto_map": of_auto})
    return folder / "model", marker


def test_an_endpoint_in_a_found_make_json_is_never_asked(planted, ftcli_run: Train, tmp_path: Path) -> None:
    with serving(Recorder, seen=[]) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        asked = {"type": "openai", "model": "m", "base_url": url, "api_key_env": "HF_TOKEN", "max_retries": 0}
        folder = planted(backend=asked)
        kept = (folder / "judge" / "items.jsonl").read_bytes()
        done = ftcli_run("train", "--resume", "p", cwd=tmp_path, expect=3, HF_TOKEN=CANARY)
        assert server.seen == []
    [told] = [line for line in done.stderr.splitlines() if "make.json differs from pipeline.json" in line]
    assert "(backend.api_key_env, backend.base_url, backend.max_retries, backend.model, backend.type)" in told
    made = (folder / "judge" / "items.jsonl").read_bytes()
    assert made.startswith(kept), "what was finished is kept"
    assert made.count(b"\n") == ITEMS
    spec = json.loads((folder / "judge" / FILE).read_text(encoding="utf-8"))
    assert (spec["backend"]["type"], spec["rows"]) == ("rules", str(folder / "sample" / "data.jsonl"))
    again = ftcli_run("train", "--resume", "p", cwd=tmp_path, expect=3)
    assert "make.json" not in again.stderr


def test_a_dry_resume_shows_how_far_a_stage_has_come_and_changes_nothing(
    planted, ftcli_run: Train, tmp_path: Path
) -> None:
    before = everything(planted())
    done = ftcli_run("train", "--resume", "p", "--dry-run", cwd=tmp_path)
    assert f"stage sample: reusing {tmp_path / 'p' / 'sample'}" in done.stdout
    assert f"finished  {ITEMS // 2} items" in done.stdout
    assert everything(tmp_path / "p") == before


def test_a_folder_that_was_moved_is_no_other_pipeline(planted, ftcli_run: Train, tmp_path: Path) -> None:
    planted()
    assert "make.json" not in ftcli_run("train", "--resume", "p", cwd=tmp_path, expect=3).stderr


def test_code_of_a_model_in_a_found_make_json_is_never_run(planted, ftcli_run: Train, tmp_path: Path) -> None:
    model, marker = stranger(tmp_path)
    planted(backend={"type": "local", "model": str(model)})
    done = ftcli_run("train", "--resume", "p", cwd=tmp_path, expect=3)
    assert not marker.exists()
    assert "(backend.model, backend.type)" in done.stderr


def test_code_of_a_model_that_a_pipeline_names_runs_by_the_command_line_alone(
    begun: Path, ftcli_run: Train, tmp_path: Path
) -> None:
    model, marker = stranger(tmp_path)
    shutil.copytree(begun, tmp_path / "p")
    for name in ("result.json", "items.jsonl"):
        (tmp_path / "p" / "sample" / name).unlink()
    state = rundir.read_pipeline(tmp_path / "p")
    state["stages"]["sample"]["make"]["values"]["generator.model"] = str(model)
    rundir.write_json(tmp_path / "p" / rundir.PIPELINE, state)
    done = ftcli_run("train", "--resume", "p", cwd=tmp_path, expect=2)
    assert "trust" in done.stderr
    assert not marker.exists()
    ftcli_run("train", "--resume", "p", "--trust-remote-code", cwd=tmp_path, expect=None)
    assert marker.exists()
