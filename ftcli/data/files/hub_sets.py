"""Data sets on the hub: the requested files, cached or downloaded, or why they are not available.

Only the files of the requested configuration and split are downloaded. An interrupted download is never mistaken for
the whole set: its files are known from the hub's listing (which huggingface_hub keeps beside the cache), else from the
numbers in the names of shards.
"""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.data.files.dataset_card import BadCard, pick
from ftcli.data.files.file_types import DataFile
from ftcli.data.files.split_names import NoSplit, missing_shards

_CARD = "README.md"
_ID = re.compile(r"(?:hub:)?(?P<id>(?:\w[\w.-]*/)?\w[\w.-]*)", re.ASCII)


def hub_id(path: str) -> str | None:
    """The hub's name of a data set, or None for a path that cannot be one."""
    match = _ID.fullmatch(path)
    return match["id"] if match and (path.startswith("hub:") or "/" in path) else None


def cached_dataset(set_id: str, revision: str | None) -> Path | None:
    """The folder that holds what is cached of a hub data set at a revision, or None."""
    revision = revision or "main"
    if ".." in revision.split("/") or revision.startswith("/"):
        return None
    repository = _repository(set_id)
    reference = repository / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if os.path.isfile(reference) else revision
    snapshot = repository / "snapshots" / commit
    return snapshot if "/" not in commit and os.path.isdir(snapshot) else None


def find(
    set_id: str, revision: str | None, subset: str | None, split: str | None, where: str, *, fetch: bool
) -> tuple[DataFile, ...] | None:
    """The files of a hub data set, by name.

    Args:
        fetch: whether to use the network and download files; without it, None means "unknown offline".

    Raises:
        ConfigError: there is no such set, revision, configuration or split, or it is not available; with the remedy.
    """
    snapshot = cached_dataset(set_id, revision)
    listing = _listing(snapshot) if snapshot else None
    from ftcli.core import hub_cache  # here, since its own imports reach this module

    offline = hub_cache.offline()
    if snapshot is not None and (listing is not None or offline or not fetch):
        names = listing if listing is not None else _present(snapshot)
        # Without a listing, a file that is not cached may still exist: it is an error only if the hub cannot be asked.
        sure = listing is not None or bool(offline)
        chosen = _chosen(set_id, snapshot, names, subset, split, where, sure=sure)
        if chosen is not None and not _absent(snapshot, chosen):
            return _files(set_id, snapshot, chosen)
        if fetch and offline:
            raise _incomplete(set_id, where, f"{offline} forbids the network", revision)
    if not fetch:
        return None
    if offline:
        here = f"{set_id} is not in the local cache"
        raise ConfigError(Problem(where, f"{here}, and {offline} forbids the network", _bring(set_id, revision)))
    return _fetched(set_id, revision, subset, split, where)


def _fetched(
    set_id: str, revision: str | None, subset: str | None, split: str | None, where: str
) -> tuple[DataFile, ...]:
    from huggingface_hub import HfApi, snapshot_download

    def download(names: list[str]) -> Path:
        patterns = [glob.escape(name) for name in names]
        folder = snapshot_download(set_id, repo_type="dataset", revision=revision, allow_patterns=patterns)
        return Path(folder)

    try:
        information = HfApi().dataset_info(set_id, revision=revision, timeout=10)
        HfApi().auth_check(set_id, repo_type="dataset")
        names = sorted(file.rfilename for file in information.siblings or ())
        snapshot = download([_CARD])
        chosen = _chosen(set_id, snapshot, names, subset, split, where, sure=True)
        snapshot = download(chosen) if chosen else snapshot
    except ConfigError:
        raise
    except Exception as error:
        problem, unreachable = _refusal(set_id, revision, where, error)
        cached = cached_dataset(set_id, revision) if unreachable else None
        if cached is None:
            raise ConfigError(problem) from None
        # As without a network: the cached files are used if they look complete.
        chosen = _chosen(set_id, cached, _listing(cached) or _present(cached), subset, split, where, sure=True)
        if not chosen or _absent(cached, chosen):
            raise _incomplete(set_id, where, "the hub cannot be reached", revision) from None
        return _files(set_id, cached, chosen)
    if not chosen or _absent(snapshot, chosen):
        raise _incomplete(set_id, where, "the download is incomplete", revision)
    return _files(set_id, snapshot, chosen)


def _chosen(
    set_id: str, snapshot: Path, names: Sequence[str], subset: str | None, split: str | None, where: str, *, sure: bool
) -> list[str] | None:
    """Names of the requested files, or None if they are unknown.

    They are unknown if the README is not cached, or if none is in `names` and these, without `sure`, may be incomplete.
    """
    card = snapshot / _CARD
    if _CARD in names and not os.path.isfile(card):
        return None
    try:
        return pick(card if os.path.isfile(card) else None, names, subset, split)
    except BadCard as fault:
        fix = f"name files of it instead: hf://datasets/{set_id}/FILE"
        raise ConfigError(Problem(where, f"{set_id}/{_CARD}: {fault}", fix)) from None
    except NoSplit as fault:
        if not sure:
            return None
        there = f"choose from {', '.join(fault.there[:20])}{', …' if len(fault.there) > 20 else ''}"
        files = f"name files of it: hf://datasets/{set_id}/FILE"
        raise ConfigError(Problem(where, f"{set_id} {fault.what}", there if fault.there else files)) from None


def _refusal(set_id: str, revision: str | None, where: str, error: Exception) -> tuple[Problem, bool]:
    """The problem behind an exception of the hub's library, and whether it is only that the hub cannot be reached."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        fix = "accept the terms on the set's page and log in with `hf auth login`"
        return Problem(where, f"{set_id} is gated and this account has no access to it", fix), False
    if isinstance(error, RevisionNotFoundError):
        return Problem(where, f"{set_id} has no revision {revision}", "name a branch, tag or commit"), False
    if isinstance(error, RepositoryNotFoundError):
        fix = "check the spelling, or log in with `hf auth login` if it is private"
        return Problem(where, f"the hub has no data set {set_id}", fix), False
    if isinstance(error, HFValidationError):
        return Problem(where, f"{set_id} is not a valid hub name", "check the spelling"), False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
        what = f"{set_id} cannot be stored in {_repository(set_id).parent}: {error.strerror}"
        return Problem(where, what, "free space there, or set HF_HOME to another folder"), False
    http = type(error).__module__.startswith(("httpx", "httpcore", "requests", "hf_xet"))
    # A captive portal answers every request with its own page, which does not parse as a data set.
    known = (HfHubHTTPError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError)
    if not http and not isinstance(error, known):
        raise error
    what = f"{set_id} is incomplete in the local cache, and the hub cannot be reached ({type(error).__name__})"
    return Problem(where, what, _bring(set_id, revision)), True


def _bring(set_id: str, revision: str | None) -> str:
    at = f" --revision {revision}" if revision else ""
    command = f"hf download --repo-type dataset {set_id}{at}"
    return f"download it on a machine with a network (`{command}`) and copy the cache, or use a local file or folder"


def _incomplete(set_id: str, where: str, why: str, revision: str | None) -> ConfigError:
    return ConfigError(
        Problem(where, f"{set_id} is only partly in the local cache, and {why}", _bring(set_id, revision))
    )


def _repository(set_id: str) -> Path:
    from ftcli.core import hub_cache

    return hub_cache.hub_cache() / f"datasets--{set_id.replace('/', '--')}"


def _listing(snapshot: Path) -> list[str] | None:
    """All file names of the set at this commit, as huggingface_hub recorded them; None if it did not."""
    try:
        noted: Any = foreign_files.read_json(snapshot.parent.parent / "trees" / f"{snapshot.name}.json")["files"]
        return sorted(str(name) for name in noted)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _present(snapshot: Path) -> list[str]:
    """Names of the files that are cached."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), snapshot).replace(os.sep, "/")
        for folder, _, names in os.walk(snapshot)
        for name in names
    )


def _absent(snapshot: Path, chosen: Sequence[str]) -> list[str]:
    return [name for name in (*chosen, *missing_shards(chosen)) if not os.path.isfile(snapshot / name)]


def _files(set_id: str, snapshot: Path, chosen: Sequence[str]) -> tuple[DataFile, ...]:
    return tuple(DataFile(str(snapshot / name), f"{set_id}/{name}") for name in sorted(chosen))
