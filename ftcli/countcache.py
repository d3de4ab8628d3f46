"""Token counts remembered between plans: people plan many times over the same rows, and counting 20 MB takes seconds.

Keyed by the bytes of the data, of the tokenizer's files and of our own source, and by every setting that the count
depends on, so that a changed argument never meets an old entry. Losing the cache loses nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from ftcli import rundir, tokencount
from ftcli.methods import Method
from ftcli.settings import DataSettings
from ftcli.tokencount import TokenCount

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def folder() -> Path:
    """Where counts are kept: XDG_CACHE_HOME/ftcli/tokens, or ~/.cache/ftcli/tokens."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ftcli" / "tokens"


def _key(file: Path, data: DataSettings, method: Method, tokenizer_folder: Path | None) -> str:
    digest = hashlib.sha256()
    sources = [Path(tokencount.__file__).parent / "data" / name for name in ("formats.py", "turns.py", "read.py")]
    own = [Path(tokencount.__file__), *sources]
    tokenizer = [tokenizer_folder / name for name in _TOKENIZER_FILES] if tokenizer_folder else []
    for path in (file, *own, *tokenizer):
        content = path.read_bytes() if path.is_file() else b""
        digest.update(hashlib.sha256(content).digest())
    settings = {**asdict(data), "path": file.name, "eval_path": None}  # the name tells how the file is read
    digest.update(json.dumps([settings, method.kinds, method.templates_pairs], sort_keys=True).encode())
    return digest.hexdigest()


def count(file: Path, data: DataSettings, method: Method, tokenizer_folder: Path | None) -> TokenCount:
    """As `tokencount.count`, remembered for files that are counted whole.

    Raises:
        ConfigError: the tokenizer's own files are damaged.
        DataError: the file holds no row, or cannot be read on from some line.
    """
    if file.stat().st_size > tokencount.EXACT_BYTES:
        return tokencount.count(file, data, method, tokenizer_folder)
    entry = folder() / f"{_key(file, data, method, tokenizer_folder)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return TokenCount(**json.loads(entry.read_text(encoding="utf-8")))
    found = tokencount.count(file, data, method, tokenizer_folder)
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        rundir.write_atomically(entry, json.dumps(asdict(found)))
    return found
