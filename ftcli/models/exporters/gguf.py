"""One GGUF file for llama.cpp and what is built on it, by llama.cpp's own converter."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.models.export.converter_input import copied_sentencepiece, lay_out, space_after_special
from ftcli.models.export.exporter import Exporter, Place, Trained
from ftcli.models.export.gguf_converter import (
    CONVERTED,
    QUANTISED,
    bytes_a_weight,
    convert,
    require_tools,
    write_vocabulary,
)
from ftcli.models.export.gguf_ends import unknown_ends
from ftcli.models.export.gguf_header import gguf_header
from ftcli.models.export.read_back import read_back
from ftcli.models.sources import head_of
from ftcli.models.templates.chat_template import chat_template

TYPES = ("bf16", *(kind for kind in CONVERTED if kind != "bf16"), *QUANTISED)


def check(trained: Trained, kind: str, where: str) -> None:
    """Check that llama.cpp knows the model and its tokenizer, by what its converter makes of them.

    Raises:
        ConfigError: it does not, or what writes the type is not installed.
    """
    if head_of(trained.folder) == "reward_model":
        what = f"{trained.name} is a reward model, which llama.cpp does not serve as it was trained"
        raise ConfigError(Problem(where, what, "ftcli score uses it; --to folder writes it"))
    require_tools(kind, where)
    try:
        space_after_special(trained.tokenizer)
    except ValueError as error:
        what = f"llama.cpp would divide its conversations otherwise than they were trained: {error}"
        raise ConfigError(Problem(where, what, "--to folder or --to vllm serves it as it was trained")) from None
    with tempfile.TemporaryDirectory(prefix="ftcli-") as scratch:
        folder = Path(scratch) / "model"
        lay_out(trained.foundation, folder, tokenizer=trained.tokenizer, weights=False)
        copied_sentencepiece(trained.tokenizer, trained.below, folder)
        write_vocabulary(folder, Path(scratch) / "vocabulary.gguf", where)


def file_name(trained: Trained, kind: str) -> str:
    """The name of the file of weights."""
    return f"{trained.title}-{kind}.gguf"


def write(trained: Trained, plain: Path, place: Place) -> Sequence[str]:
    """Write the file, and say which tokens that end answers llama.cpp does not take for ends."""
    folder = place.scratch / "converter"
    lay_out(plain, folder, tokenizer=trained.tokenizer)
    copied_sentencepiece(trained.tokenizer, trained.below, folder)
    file = place.into / file_name(trained, place.kind)
    convert(folder, file, place.kind, trained.title, place.where)
    notes = [*read_back(file, trained.tokenizer, place.where)]
    if unknown := unknown_ends(gguf_header(file).metadata, trained.ends):
        words = " and ".join(unknown)
        notes.append(f"llama.cpp does not stop at {words} by itself: name it as a stop string in every request")
    if chat_template(trained.tokenizer) is None:
        notes.append("it has no chat template, so servers guess one: ask it for completions of text")
    return notes


def next_lines(trained: Trained, folder: Path, kind: str) -> Sequence[str]:
    """llama.cpp's server, which renders the model's own chat template."""
    file = folder / file_name(trained, kind)
    return (*trained.verified_at(file), f"llama-server --jinja -m {shell_word(str(file))}")


EXPORTER = Exporter(
    summary="one file for llama.cpp, LM Studio and their like",
    types=TYPES,
    exact=True,
    check=check,
    write=write,
    next_lines=next_lines,
    bytes_a_weight=lambda kind: bytes_a_weight(kind) + (2.0 if kind in QUANTISED else 0.0),
)
