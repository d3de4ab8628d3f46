"""The local cache of hub repositories, located and read as huggingface_hub does, without importing it."""

from __future__ import annotations

import os
import re
from pathlib import Path


def hub_cache() -> Path:
    """The folder of cached hub repositories, by huggingface_hub's own rules."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(home).expanduser() / "hub"


REVISION = r"\w[\w.+-]*(/\w[\w.+-]*)*"
"""The form of a branch, tag or commit."""


def is_revision(text: object) -> bool:
    """Whether a text is a branch, tag or commit: words between slashes. One with `..` would name a folder elsewhere,
    since revisions are folders and files of the cache."""
    return isinstance(text, str) and re.fullmatch(REVISION, text) is not None


def cached_snapshot(hub_id: str, revision: str | None) -> Path | None:
    """The cached files of a hub model at a revision, or None where its config.json is not cached."""
    if revision is not None and not is_revision(revision):
        return None
    repository = hub_cache() / f"models--{hub_id.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if os.path.isfile(reference) else revision or ""
    snapshot = repository / "snapshots" / commit
    return snapshot if commit and os.path.isfile(snapshot / "config.json") else None


def cached(kind: str) -> list[str]:
    """The hub names of what is in the cache, whole or not: of `models` or of `datasets`."""
    folder, start = hub_cache(), f"{kind}--"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name.removeprefix(start).replace("--", "/") for name in names if name.startswith(start))


def offline() -> str:
    """The environment variable that forbids the network, read as huggingface_hub reads it; "" for none."""
    name = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
    return name if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") else ""
