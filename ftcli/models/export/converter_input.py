"""The folder that llama.cpp's converter reads: a model's files without code, that say what the model was trained with.

The converter lets the code run that a model's files name, so the code stays out, and what names it too. It takes the
chat template as it is, so marks that only transformers knows become plain. And servers of GGUF files add the BOS token
by themselves, so the file says whether conversations begin with one as they were trained.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ftcli.core.untrusted import foreign_files
from ftcli.models.templates.chat_template import (
    TEMPLATE_FILE,
    added_tokens,
    chat_template,
    special_tokens,
    tokenizer_config,
)
from ftcli.models.templates.template_rendering import PROBE, TemplateRejection, renderer

TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json")
WEIGHTS = "*.safetensors"
_DATA = ("config.json", "generation_config.json", "model.safetensors.index.json", *TOKENIZER)
_CODE = ("auto_map", "custom_pipelines", "_name_or_path")
_MARK = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


def lay_out(model: Path, into: Path, *, tokenizer: Path | None = None, weights: bool = True) -> None:
    """Put the files of a model that the converter needs into a folder; large ones as links to those of `model`.

    Args:
        tokenizer: the folder with its tokenizer, where that is another one.
    """
    into.mkdir(parents=True, exist_ok=True)
    words = tokenizer or model
    for folder, names in ((model, _DATA), (words, TOKENIZER)):
        for name in names:
            if (folder / name).is_file() and not (name in TOKENIZER and folder is not words):
                shutil.copyfile(folder / name, into / name)
    if weights:
        for file in sorted(model.glob(WEIGHTS)):
            os.symlink(file.resolve(), into / file.name)
    _write(into / "config.json", _grown(_plain(into / "config.json"), words))
    config = {key: value for key, value in tokenizer_config(words).items() if key not in (*_CODE, "chat_template")}
    template = chat_template(words)
    if template is not None:
        (into / TEMPLATE_FILE).write_text(without_marks(template), encoding="utf-8")
        config["add_bos_token"] = begins_with_bos(words)
        if space_after_special(words) is False:
            config["add_prefix_space"] = False
    _write(into / "tokenizer_config.json", config)


def without_marks(template: str) -> str:
    """A chat template without the marks of answers, which only transformers knows; it renders the same text."""
    return _MARK.sub(lambda mark: f"{{%{mark[1]} {'endif' if mark[2] else 'if true'} {mark[3]}%}}", template)


def begins_with_bos(tokenizer: Path) -> bool:
    """Whether conversations begin with the BOS token as the chat template renders them.

    A token that begins every turn, as SmolLM2's, is none that a server has to add.
    """
    bos, text = special_tokens(tokenizer).get("bos_token"), _opened(tokenizer)
    return bool(bos) and text.startswith(str(bos)) and text.count(str(bos)) == 1


def space_after_special(tokenizer: Path) -> bool | None:
    """Whether a tokenizer of the SentencePiece kind puts a space before text that follows a special token, as
    llama.cpp does unless it is told never to put one; None for other kinds.

    Raises:
        ValueError: neither, so that llama.cpp cannot divide conversations as they were trained.
    """
    try:
        read = foreign_files.read_json(tokenizer / "tokenizer.json", foreign_files.MAX_TOKENIZER_BYTES)
        kind, byte_fallback = read.get("pre_tokenizer") or {}, read["model"].get("byte_fallback")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    if not byte_fallback or kind.get("type") != "Metaspace":
        return None
    if kind.get("prepend_scheme") != "first":
        return kind.get("prepend_scheme") == "always"
    text, special = _opened(tokenizer), added_tokens(tokenizer).values()
    if any(text.startswith(token) for token in special):
        return False  # no text comes first
    if any(token in text for token in special):
        raise ValueError("it puts a space at the beginning of a conversation alone, and llama.cpp before every turn")
    return True


def _opened(tokenizer: Path) -> str:
    """A short conversation, with the beginning of an answer, as the chat template renders it; "" where it does not."""
    template = chat_template(tokenizer)
    try:
        return renderer(template, tokenizer)([*PROBE, PROBE[0]], None, opened=True) if template is not None else ""
    except TemplateRejection:
        return ""


def _plain(file: Path) -> dict[str, Any]:
    """A configuration without what names code."""
    found = foreign_files.read_json(file)
    return {key: value for key, value in found.items() if key not in _CODE} if isinstance(found, dict) else {}


def _grown(config: dict[str, Any], tokenizer: Path) -> dict[str, Any]:
    """The configuration with room for every token of the tokenizer: new ones are in the weights once they are merged,
    and the tokenizer is looked at before that."""
    last = max((int(number) + 1 for number in added_tokens(tokenizer)), default=0)
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and isinstance(part.get("vocab_size"), int):
            part["vocab_size"] = max(part["vocab_size"], last)
    return config


def _write(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")


def copied_sentencepiece(tokenizer: Path, bases: Iterable[Path], into: Path) -> None:
    """Put the SentencePiece model of a base beside a tokenizer of the same words that lacks it: transformers saves it
    no longer, and without its scores llama.cpp divides text otherwise."""
    if (into / "tokenizer.model").is_file():
        return
    own = _words(tokenizer)
    for base in bases:
        file = base / "tokenizer.model"
        if file.is_file() and own is not None and _words(base) == own:
            shutil.copyfile(file, into / file.name)
            return


def _words(folder: Path) -> Any:
    try:
        read = foreign_files.read_json(folder / "tokenizer.json", foreign_files.MAX_TOKENIZER_BYTES)
        return read["model"]["vocab"], read["model"].get("merges")
    except (OSError, ValueError, LookupError, TypeError):
        return None
