"""llama.cpp's own programs: `llama-quantize` writes files of few bits, `llama-server` reads one back and answers of it.

Each is taken from PATH, or as `make llama-quantize` and `make llama-server` build it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ftcli.cli import main
from ftcli.core.exit_codes import EXIT_CONFIG
from ftcli.endpoints import llama_server
from ftcli.models.export.gguf_converter import QUANTISED
from ftcli.models.export.gguf_header import gguf_header
from tests.llama_cpp import greedy, program
from tests.sentencepiece_llama import sentencepiece_llama


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny model of rows that llama.cpp's mixtures of types divide."""
    return sentencepiece_llama(tmp_path / "base", hidden_size=512)


def exported(model: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> tuple[Path, dict[str, Any]]:
    """A model as a GGUF file of a type, and what the command says of it."""
    capsys.readouterr()
    out = model.parent / f"out-{kind}"
    assert main(["export", str(model), "--to", f"gguf:{kind}", "--out", str(out), "--json"]) == 0
    [file] = out.glob("*.gguf")
    return file, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_file_of_few_bits_is_written_and_llama_cpp_reads_and_answers_of_it(
    kind: str, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    program("llama-quantize", monkeypatch)
    file, said = exported(base, kind, capsys)
    header = gguf_header(file)
    assert header.weight_type == re.sub("_[MS]$", "", kind.upper())
    assert header.mixture == ("" if kind == "q4_0" else kind.upper())
    assert said["notes"][0].startswith("read back by llama.cpp: 21 texts and all conversations are the tokens that")
    assert [each.name for each in file.parent.iterdir() if each.suffix != ".json"] == [file.name]  # no bf16 is left
    with llama_server.serving(file, "--ctx-size", "128") as server:
        assert len(greedy(server, [1, 300, 301, 302], 4)) == 4


def test_a_quantised_type_without_the_program_is_refused_and_says_what_brings_it(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["export", str(base), "--to", "gguf:q4_k_m", "--out", str(tmp_path / "out")]) == EXIT_CONFIG
    said = capsys.readouterr().err
    assert "q4_k_m is made by llama.cpp's llama-quantize, which is not on PATH" in said
    assert "make llama-quantize" in said
    assert "f32, f16, bf16, q8_0 are written without it" in said
    assert not (tmp_path / "out").exists()


def test_llama_server_on_path_reads_a_file_back_where_the_package_is_not_installed(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    found = program("llama-server", monkeypatch)
    monkeypatch.setattr(llama_server, "PACKAGE", "a_package_that_is_not_installed")
    assert found in llama_server.command(base / "any.gguf")
    file, said = exported(base, "f32", capsys)
    assert said["notes"][0].startswith("read back by llama.cpp: 21 texts and all conversations are the tokens that")
    with llama_server.serving(file, "--ctx-size", "128") as server:
        assert len(greedy(server, [1, 300, 301, 302], 4)) == 4
