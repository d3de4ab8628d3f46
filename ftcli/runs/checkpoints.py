"""Checkpoints that cannot be half-written: staged aside, digested, made durable, then renamed into place.

    RUN/checkpoints/checkpoint-40/…  manifest.json     sealed: every file has its sha256 and size in the manifest
                    .staging-60/                       being written, or left by a killed run: never used
                    .trash-checkpoint-20/              renamed out of the way before it is removed
                    .damaged-checkpoint-80/            found damaged on resume and skipped; kept for inspection

A folder called checkpoint-<step> is therefore complete, unless something damaged it later; the manifest tells which.
Both halves use this module, so it imports only the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ftcli.core.untrusted import foreign_files
from ftcli.runs.file_modes import as_created

SCHEMA = 1
MANIFEST = "manifest.json"
_STAGING, _TRASH, _DAMAGED = ".staging-", ".trash-", ".damaged-"
_NAME = re.compile(r"checkpoint-(\d+)")
# What a file is, for a reader who has never looked into a checkpoint.
_MEANING = (
    ("optimizer", "the optimizer state"),
    ("scheduler", "the scheduler state"),
    ("rng_state", "the RNG state"),
    ("process_state", "the place in the rows and the tuner's state"),
    ("scaler", "the scale of the gradients"),
    ("adapter_exact", "the adapter as it was in memory"),
    ("critic_optimizer", "the critic's optimizer state"),
    ("critic", "the critic"),
    ("reference", "the reference model"),
)
_LOADED = (".safetensors", ".pt", ".pth", ".bin")


class Damaged(NamedTuple):
    """A checkpoint that cannot be resumed, and every reason found."""

    path: Path
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.path.name} is damaged: {'; '.join(self.reasons)}"


def checkpoint_path(root: Path, step: int) -> Path:
    """The path of the sealed checkpoint of an optimizer step."""
    return root / f"checkpoint-{step}"


def staging_path(root: Path, name: str | int) -> Path:
    """Where a checkpoint (by step) or any other folder (by name) is written before it is renamed into place."""
    return root / f"{_STAGING}{name}"


def step_of(path: Path) -> int | None:
    """The optimizer step in a checkpoint's name; None for any other name."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def sealed(root: Path) -> list[Path]:
    """All checkpoint-<step> folders under `root`, oldest step first, valid or not."""
    return [path for path in named(root) if path.is_dir() and not path.is_symlink()]


def named(root: Path) -> list[Path]:
    """All that is called checkpoint-<step> under `root`, files and links among them, oldest step first."""
    if not root.is_dir():
        return []
    found = [(step, path) for path in root.iterdir() if (step := step_of(path)) is not None]
    return [path for _, path in sorted(found)]


# --- writing -------------------------------------------------------------------------------------------------


def seal(staging: Path, final: Path, needs: Sequence[str] = ()) -> None:
    """Turn a fully written staging folder into the checkpoint `final`, or leave nothing there.

    Args:
        needs: the files that a resume needs, as `needed_files` gives them.

    Raises:
        ValueError: nothing was staged, or not all that is needed, or `final` is not called checkpoint-<step>.
        OSError: the disk is full or the two folders are on different file systems.
    """
    step = step_of(final)
    if step is None:
        raise ValueError(f"{final.name} is not called checkpoint-<step>")
    names = [name for name in _files_below(staging) if name != MANIFEST]
    if not names:
        raise ValueError(f"nothing was written to {staging}")
    if unsaved := [_unsaved(need) for need in needs if not _any_matches(need, names)]:
        raise ValueError(f"{staging} cannot become {final.name}: {'; '.join(unsaved)}")
    write_manifest(staging, step)
    publish(staging, final)


def write_manifest(folder: Path, step: int | None = None) -> None:
    """Write the digest and size of every file of a folder into its manifest.

    Args:
        step: of a checkpoint; a model has none.
    """
    names = [name for name in _files_below(folder) if name != MANIFEST]
    entries = {name: {"sha256": digest, "bytes": size} for name, digest, size in _digests(folder, names)}
    text = json.dumps({"schema": SCHEMA, "step": step, "files": entries}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def publish(staging: Path, final: Path) -> None:
    """Make a folder durable and rename it to `final`; what is already there is replaced and then removed.

    Its files get the modes that the umask gives.
    """
    as_created(staging / name for name in _files_below(staging))
    fsync_tree(staging)
    old = None
    if os.path.lexists(final):
        old = _rename_aside(final, _TRASH)
    os.rename(staging, final)
    _fsync(final.parent)
    if old is not None:
        _remove(old)


def fsync_tree(folder: Path) -> None:
    """Write every file and folder below `folder`, and itself, through to the disk."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            _fsync(Path(parent, name))
        _fsync(Path(parent))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- removing ------------------------------------------------------------------------------------------------


def sweep_staging(root: Path) -> list[Path]:
    """Remove what killed runs left half-written or half-removed under `root`; returns what was there."""
    if not root.is_dir():
        return []
    left = sorted(path for path in root.iterdir() if path.name.startswith((_STAGING, _TRASH)))
    for path in left:
        _remove(path)
    return left


def rotate(root: Path, save_total_limit: int | None, best: Path | None = None) -> list[Path]:
    """Keep the newest checkpoint, the best one, and the newest others up to the limit; returns those removed.

    The limit counts all of them, the best included, but two are kept whatever it is where the best is not the newest.
    None or 0 keeps all. A checkpoint loses its name before its first file, so a kill leaves nothing half-valid; what
    cannot be removed then, as a file that is still open on a network disk, is left to `sweep_staging`.
    """
    if not save_total_limit or save_total_limit < 0:
        return []
    *older, newest = [path.name for path in sealed(root)] or [""]
    others = [name for name in older if best is None or name != best.name]
    room = max(0, save_total_limit - 1 - (len(older) - len(others)))
    kept = {newest, *(others[-room:] if room else ()), *([best.name] if best else ())}
    surplus = [path for path in sealed(root) if path.name not in kept]
    for path in surplus:
        shutil.rmtree(_rename_aside(path, _TRASH), ignore_errors=True)
    return surplus


def set_aside_newer(root: Path, step: int) -> list[Path]:
    """Rename checkpoints later than `step` out of the way, to .damaged-checkpoint-<step>; returns the new paths.

    A run that resumes before them would otherwise keep them as its newest when it rotates.
    """
    later = [path for path in named(root) if (step_of(path) or 0) > step]
    return [_rename_aside(path, _DAMAGED) for path in later]


def _rename_aside(path: Path, prefix: str) -> Path:
    aside = path.with_name(prefix + path.name)
    if os.path.lexists(aside):
        _remove(aside)
    os.rename(path, aside)
    _fsync(path.parent)
    return aside


def _remove(path: Path) -> None:
    """Remove a folder with all that is in it, or a file or link in its place; what a link leads to stays."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


# --- reading -------------------------------------------------------------------------------------------------


def newest_valid(root: Path, needs: Sequence[str], *, digests: bool = True) -> tuple[Path | None, list[Damaged]]:
    """The newest checkpoint that has the files in `needs` and can be resumed, and the newer ones that cannot.

    Reads every byte of those that it looks at, newest step first; without `digests` only their names and sizes.
    """
    damaged: list[Damaged] = []
    for path in reversed(named(root)):
        reasons = verify(path, needs=needs, digests=digests)
        if not reasons:
            return path, damaged
        damaged.append(Damaged(path, tuple(reasons)))
    return None, damaged


def verify(path: Path, *, needs: Sequence[str], digests: bool = True) -> list[str]:
    """Why a checkpoint cannot be resumed, or a model is not what its manifest says, one reason per fault; [] for none.

    `needs` are patterns as `needed_files` gives them. Without `digests` only names and sizes are compared, which
    is fast however large the files.
    """
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
        return [f"it is {_what(path)}, not a folder"]
    entries, fault = read_manifest(path)
    if fault:
        return [fault]
    found, odd = _below(path)
    reasons = [_unsaved(need) for need in needs if not _any_matches(need, entries)]
    reasons += [*odd, *_unlisted(found, entries, needs), *_unlisted_shards(path, entries)]
    whole = []
    for name, entry in entries.items():
        if name not in found:
            if (path / name).is_dir() and not (path / name).is_symlink():
                reasons.append(f"{name} is a folder, not a file")
            elif not os.path.lexists(path / name):  # what is odd was named
                reasons.append(_missing(name))
        elif found[name] != entry["bytes"]:
            reasons.append(f"{name} has {found[name]} bytes instead of {entry['bytes']}")
        else:
            whole.append(name)
    return reasons + (_altered(path, whole, entries) if digests else [])


def _altered(path: Path, names: Sequence[str], entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The files whose content is not that of the manifest."""
    try:
        digests = {name: digest for name, digest, _ in _digests(path, names)}
    except OSError as error:
        return [f"{error.filename or path.name} cannot be read ({error.strerror})"]
    altered = [name for name in names if digests[name] != entries[name]["sha256"]]
    return [f"{name} does not match its sha256 in the manifest" for name in altered]


def _below(folder: Path) -> tuple[dict[str, int], list[str]]:
    """The regular files below a folder with their sizes, and a reason for all else but folders; no link is followed."""
    found, odd = dict[str, int](), list[str]()
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in sorted([*folders, *files])):
            name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
            if stat.S_ISREG(mode):
                found[name] = path.lstat().st_size
            elif not stat.S_ISDIR(mode):
                odd.append(f"{name} is {_what(path)}, not a file")
    return found, odd


def _what(path: Path) -> str:
    """What a directory entry is, for a message."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return "a link"
    return "a file" if stat.S_ISREG(mode) else "a pipe, socket or device"


def _unlisted(found: Iterable[str], entries: Iterable[str], needs: Sequence[str]) -> list[str]:
    """Weights and states that the manifest does not list: libraries load what is there, wherever it came from."""
    listed = set(entries)
    unsaved = [need for need in needs if not _any_matches(need, listed)]  # each of these is a reason already
    added = [name for name in found if name not in listed and name.endswith(_LOADED)]
    added = [name for name in added if not any(_any_matches(need, [name]) for need in unsaved)]
    return [f"{name} is not in the manifest" for name in added]


def _unlisted_shards(path: Path, entries: Iterable[str]) -> list[str]:
    """The parts of weights in several files that the checkpoint's own index names, and its manifest does not."""
    reasons, listed = [], set(entries)
    for name in sorted(one for one in listed if one.endswith(".safetensors.index.json")):
        try:
            parts = set(foreign_files.read_json(path / name)["weight_map"].values())
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            reasons.append(f"{name} is no index of weights")
            continue
        reasons += [f"{part} was never saved ({name} names it)" for part in sorted(map(str, parts - listed))]
    return reasons


def read_manifest(path: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """The entries of a checkpoint's manifest, or why there are none."""
    if (path / MANIFEST).is_symlink():
        return {}, f"{MANIFEST} is a link, not a file"
    try:
        manifest = foreign_files.read_json(path / MANIFEST)
    except FileNotFoundError:
        return {}, f"{MANIFEST} is missing"
    except (OSError, ValueError) as error:
        return {}, f"{MANIFEST} cannot be read ({type(error).__name__})"
    if not isinstance(manifest, dict) or not _well_formed(manifest.get("files")):
        return {}, f"{MANIFEST} is not a manifest"
    if manifest.get("schema") != SCHEMA:
        return {}, f"{MANIFEST} has schema {manifest.get('schema')}, this version reads {SCHEMA}"
    if manifest.get("step") != step_of(path):
        return {}, f"{MANIFEST} is for step {manifest.get('step')}"
    return manifest["files"], ""


def _well_formed(files: Any) -> bool:
    """Whether a manifest's `files` are digests and sizes of files inside the checkpoint."""
    if not isinstance(files, dict) or not files:
        return False
    for name, entry in files.items():
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or PurePosixPath(name).is_absolute() or not isinstance(entry, dict):
            return False
        if not isinstance(entry.get("sha256"), str) or type(entry.get("bytes")) is not int:
            return False
    return True


def _any_matches(need: str, names: Iterable[str]) -> bool:
    alternatives = need.split("|")
    return any(fnmatchcase(name, pattern) for name in names for pattern in alternatives)


def _unsaved(need: str) -> str:
    name = need.split("|")[0]
    return f"{name} was never saved{_meaning(name)}"


def _missing(name: str) -> str:
    return f"{name} is missing{_meaning(name)}"


def _meaning(name: str) -> str:
    return next((f" ({meaning})" for prefix, meaning in _MEANING if name.startswith(prefix)), "")


def _files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _digests(folder: Path, names: Sequence[str]) -> Iterable[tuple[str, str, int]]:
    """(name, sha256, bytes) of each file, several at once: hashing releases the interpreter lock."""

    def digest(name: str) -> tuple[str, str, int]:
        with open(folder / name, "rb") as file:
            return name, hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(digest, names))
