"""vLLM's own server serves what was trained by the words that ftcli prints, and `ftcli verify` names what is not so."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.core.exit_codes import EXIT_GATE
from tests.conftest import MakeOnce
from tests.external import smollm2
from tests.external.deployed.programs import NEEDS_VLLM, serving
from tests.served_models import OTHERWISE, ROWS, TRAIN, Found, by_part, make_base

pytestmark = NEEDS_VLLM
Verified = Callable[..., Found]
EXACT = ("--dtype", "float32", "--enforce-eager")
"""What is computed as it was trained; by itself vLLM serves float32 weights in bfloat16."""


@pytest.fixture(scope="module")
def made(once: MakeOnce) -> Path:
    """A run with LoRA, exported for vLLM, its adapter of half-way, and another base."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(folder)
            make_base(folder / "base")
            make_base(folder / "wrong", seed=1)
            (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
            (folder / "other.jinja").write_text(OTHERWISE, encoding="utf-8")
            assert main(list(TRAIN)) == 0
            assert main(["export", "run", "--to", "vllm"]) == 0
            shutil.copytree(folder / "run/checkpoints/checkpoint-30", folder / "stale")

    return once("vllm", make)


@pytest.fixture
def verified(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verified:
    """What verify says of a name at an address: part → state and detail, faults before what is right."""
    monkeypatch.chdir(made)

    def run(at: str, name: str, *, run: str = "run", faulty: bool = False) -> Found:
        capsys.readouterr()
        words = ["verify", run, "--at", at, "--as", name, "--rows", "6", "--max-new-tokens", "16", "--json"]
        assert main(words) == (EXIT_GATE if faulty else 0)
        return by_part(json.loads(capsys.readouterr().out)["verdicts"])

    return run


def line_of(run: Path | str, capsys: pytest.CaptureFixture[str], out: Path) -> list[str]:
    """The words of the line that export prints for vLLM."""
    capsys.readouterr()
    assert main(["export", str(run), "--to", "vllm", "--out", str(out), "--json"]) == 0
    return shlex.split(json.loads(capsys.readouterr().out)["next"][0])


def test_the_line_that_export_prints_serves_adapter_and_base_by_name(made, verified, capsys, tmp_path):
    words = line_of("run", capsys, tmp_path / "out")
    with serving([*words, *EXACT], made) as address:
        found = verified(address, "run")
        assert {state for state, _ in found.values()} == {"ok"}
        assert found["prompts"][1].startswith("the tokens of all 6 are those of training")
        state, detail = verified(address, str(made / "base"), faulty=True)["weights"]
        assert (state, detail.split(":")[0]) == ("fault", "the model before training, without what was trained")


def test_ftcli_serve_starts_vllm_with_adapters_by_name_and_a_stale_one_is_named(made, verified):
    """As vLLM does by itself, in bfloat16 what is stored in float32: that is named too, and is no fault."""
    command = [sys.executable, "-m", "ftcli", "serve", "run", "stale", "--with", "vllm"]
    with serving(command, made) as address:
        found = verified(address, "run")
        assert found["answers"] == ("ok", "6 of 6 are the same greedy answer")
        assert found["weights"][0] == "note"
        assert found["weights"][1].startswith("rounded, as by 16-bit weights: log-probabilities differ by ")
        state, detail = verified(address, "stale", faulty=True)["weights"]
        assert (state, detail.split(",")[0]) == ("fault", "a stale model: that of checkpoint-30")


@pytest.mark.parametrize(
    ("change", "part", "what"),
    [
        (["--chat-template", "other.jinja"], "template", "prompts are rendered otherwise: "),
        (["wrong"], "weights", "other weights than the run's, those before training and its checkpoints: "),
    ],
    ids=["another template", "a wrong base"],
)
def test_a_fault_behind_vllm_is_named(change, part, what, made, verified, capsys, tmp_path):
    words = line_of("run", capsys, tmp_path / "out")
    base = words.index(str(made / "base"))
    words = [*words, *change] if len(change) > 1 else [*words[:base], *change, *words[base + 1 :]]
    with serving([*words, *EXACT], made) as address:
        state, detail = verified(address, "run", faulty=True)[part]
    assert state == "fault"
    assert detail.startswith(what)


@smollm2.NEEDED[0]
@smollm2.NEEDED[1]
def test_smollm2_with_lora_is_served_as_trained(verified, capsys, tmp_path):
    real = smollm2.trained(smollm2.copied(tmp_path / "smollm2"), tmp_path / "real")
    with serving([*line_of(real, capsys, tmp_path / "out"), *EXACT], tmp_path) as address:
        found = verified(address, "real", run=str(real))
    assert {state for state, _ in found.values()} <= {"ok", "note"}
    assert found["weights"][0] == "ok"
