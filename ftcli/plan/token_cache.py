"""A cache of token counts: people plan many times over the same rows, and counting 20 MB takes seconds.

Keyed by the bytes of the data, of the tokenizer's files and of our own source, and by every setting that the count
depends on, so a changed input never hits an old entry. The cache may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ftcli.core.code_digest import code_digest
from ftcli.core.paths import cache_folder
from ftcli.core.untrusted import foreign_files
from ftcli.data import row_sets
from ftcli.data.files.fingerprint import fingerprint
from ftcli.data.files.locate import DataFile
from ftcli.methods import Method
from ftcli.models.templates.chat_template import GENERATION, TOKENIZER_FILES, model_template, renders
from ftcli.plan import tokens
from ftcli.plan.tokens import TokenCount
from ftcli.runs import rundir
from ftcli.settings.groups import DataSettings, ModelSettings

CODE = ("plan/tokens.py", "models/templates", "data")
"""The part of our own source that a count depends on."""


def folder() -> Path:
    """Where counts are kept: XDG_CACHE_HOME/ftcli/tokens, or ~/.cache/ftcli/tokens."""
    return cache_folder("tokens")


def _key(
    files: Sequence[DataFile],
    data: DataSettings,
    method: Method,
    model: ModelSettings,
    tokenizer_folder: Path | None,
    limit: int | None,
) -> str:
    digest = hashlib.sha256()
    digest.update(code_digest(*CODE).encode())
    for path in [tokenizer_folder / name for name in (*TOKENIZER_FILES, GENERATION)] if tokenizer_folder else ():
        content = path.read_bytes() if path.is_file() else b""
        digest.update(hashlib.sha256(content).digest())
    for file in files:  # the file name decides how it is read
        digest.update(f"{Path(file.path).name} {fingerprint(file)}".encode())
    settings = {**asdict(data), "path": None, "eval_path": None}
    method_parts = [method.kinds, method.refuses_bare, method.overflow, method.block_tokens]
    rendering = [model_template(model, tokenizer_folder), renders(model, tokenizer_folder), model.new_tokens]
    digest.update(json.dumps([settings, method_parts, rendering, limit], sort_keys=True).encode())
    return digest.hexdigest()


def count(
    data: DataSettings, method: Method, model: ModelSettings, tokenizer_folder: Path | None, limit: int | None = None
) -> TokenCount:
    """As `tokens.count`, cached for files that are counted whole.

    Raises:
        ConfigError: the tokenizer's own files are damaged.
        DataError: a set holds no row, or too few for what the mix asks of it.
    """
    located = [row_sets.located(each, each.key, fetch=False) for each in row_sets.train_sets(data, method)]
    files = [file for found in located for file in found or ()]
    if None in located or any(os.path.getsize(file.path) > tokens.EXACT_BYTES for file in files):
        return tokens.count(data, method, model, tokenizer_folder, limit)
    entry = folder() / f"{_key(files, data, method, model, tokenizer_folder, limit)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = foreign_files.read_json(entry)
        return TokenCount(**{**kept, "unread": tuple(kept["unread"])})
    found = tokens.count(data, method, model, tokenizer_folder, limit)
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        rundir.write_atomically(entry, json.dumps(asdict(found)))
    return found
