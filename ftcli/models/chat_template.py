"""The chat template and the special tokens beside a model, read from its files without a tokenizer."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""The files on which the number of tokens depends."""
GENERATION = "generation_config.json"
"""The file that names the end tokens, which decide whether a conversation is unrolled."""


def chat_template(folder: Path | None) -> str | None:
    """The chat template stored beside a tokenizer; of several, the default one.

    Raises:
        ConfigError: the tokenizer's own files are damaged.
    """
    if folder is None:
        return None
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    found = tokenizer_config(folder).get("chat_template")
    if isinstance(found, list):  # several by name: [{"name": "default", "template": …}, …]
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def has_chat_template(folder: Path | None) -> bool:
    """Whether a model has a chat template; True where its tokenizer is not on this machine, as for most models.

    Raises:
        ConfigError: the tokenizer's own files are damaged.
    """
    if folder is None or not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return True
    return bool(chat_template(folder))


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens by their names in templates: bos_token, eos_token, pad_token and unk_token.

    Raises:
        ConfigError: tokenizer_config.json is damaged.
    """
    raw = tokenizer_config(folder)
    tokens = {key: raw.get(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    return {key: token["content"] if isinstance(token, dict) else token for key, token in tokens.items() if token}


def end_tokens(folder: Path) -> list[str]:
    """The tokens at which generation ends by generation_config.json, as text; those that the tokenizer lacks are left
    out.

    Raises:
        ConfigError: the tokenizer's own files are damaged.
    """
    try:
        given = json.loads((folder / GENERATION).read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return []
    ids = [str(i) for i in (given if isinstance(given, list) else [given]) if i is not None]
    known = tokenizer_config(folder).get("added_tokens_decoder")
    names = {key: each.get("content") for key, each in known.items()} if isinstance(known, dict) else {}
    if not all(i in names for i in ids):
        with suppress(OSError, ValueError, KeyError, TypeError):
            added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
            names |= {str(each["id"]): each["content"] for each in added}
    return [names[i] for i in ids if names.get(i)]


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """The content of tokenizer_config.json; {} where there is none.

    Raises:
        ConfigError: it is damaged.
    """
    file = folder / "tokenizer_config.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise ConfigError(Problem(str(file), "is not a JSON object", "save the tokenizer again"))
    return raw
