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
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ftcli.core.untrusted import foreign_files

SCHEMA = 1
MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"
_STAGING, _TRASH, _DAMAGED = ".staging-", ".trash-", ".damaged-"
_NAME = re.compile(r"checkpoint-(\d+)")
# What a file is, for a reader who has never looked into a checkpoint.
_MEANING = (("optimizer", "the optimizer state"), ("scheduler", "the scheduler state"), ("rng_state", "the RNG state"))


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
    if not root.is_dir():
        return []
    found = [(step, path) for path in root.iterdir() if (step := step_of(path)) is not None and path.is_dir()]
    return [path for _, path in sorted(found)]


def needed_files(world_size: int) -> tuple[str, ...]:
    """The files that a resume needs, as patterns; of alternatives ("a|b") one is enough.

    The later alternatives are what sharded training writes: FSDP a folder, DeepSpeed one with the scheduler in it.
    """
    rng = ("rng_state.pth",) if world_size <= 1 else tuple(f"rng_state_{rank}.pth" for rank in range(world_size))
    return (
        "optimizer.pt|optimizer.bin|optimizer_*/*|global_step*/*",
        "scheduler.pt|global_step*/*",
        *rng,
        TRAINER_STATE,
    )


# --- writing -------------------------------------------------------------------------------------------------


def seal(staging: Path, final: Path) -> None:
    """Turn a fully written staging folder into the checkpoint `final`, or leave nothing there.

    Raises:
        ValueError: nothing was staged, or `final` is not called checkpoint-<step>.
        OSError: the disk is full or the two folders are on different file systems.
    """
    step = step_of(final)
    if step is None:
        raise ValueError(f"{final.name} is not called checkpoint-<step>")
    names = [name for name in _files_below(staging) if name != MANIFEST]
    if not names:
        raise ValueError(f"nothing was written to {staging}")
    entries = {name: {"sha256": digest, "bytes": size} for name, digest, size in _digests(staging, names)}
    text = json.dumps({"schema": SCHEMA, "step": step, "files": entries}, indent=1)
    (staging / MANIFEST).write_text(text + "\n", encoding="utf-8")
    publish(staging, final)


def publish(staging: Path, final: Path) -> None:
    """Make a folder durable and rename it to `final`; a folder already there is replaced and then removed."""
    fsync_tree(staging)
    old = None
    if final.exists():
        old = _rename_aside(final, _TRASH)
    os.rename(staging, final)
    _fsync(final.parent)
    if old is not None:
        shutil.rmtree(old)


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
        shutil.rmtree(path)
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
    later = [path for path in sealed(root) if (step_of(path) or 0) > step]
    return [_rename_aside(path, _DAMAGED) for path in later]


def _rename_aside(path: Path, prefix: str) -> Path:
    aside = path.with_name(prefix + path.name)
    if aside.exists():
        shutil.rmtree(aside)
    os.rename(path, aside)
    _fsync(path.parent)
    return aside


# --- reading -------------------------------------------------------------------------------------------------


def newest_valid(root: Path, world_size: int, *, digests: bool = True) -> tuple[Path | None, list[Damaged]]:
    """The newest checkpoint that a run of `world_size` processes can resume, and the newer ones that it cannot.

    Reads every byte of those that it looks at, newest step first; without `digests` only their names and sizes.
    """
    damaged: list[Damaged] = []
    for path in reversed(sealed(root)):
        reasons = verify(path, needs=needed_files(world_size), digests=digests)
        if not reasons:
            return path, damaged
        damaged.append(Damaged(path, tuple(reasons)))
    return None, damaged


def verify(path: Path, *, needs: Sequence[str], digests: bool = True) -> list[str]:
    """Why a checkpoint cannot be resumed, one reason per fault; [] means valid.

    `needs` are patterns as `needed_files` gives them. Without `digests` only names and sizes are compared, which
    is fast however large the files.
    """
    entries, fault = _read_manifest(path)
    if fault:
        return [fault]
    reasons = [_unsaved(need) for need in needs if not _any_matches(need, entries)]
    whole = []
    for name, entry in entries.items():
        try:
            size = (path / name).stat().st_size
        except OSError:
            reasons.append(_missing(name))
            continue
        if size != entry["bytes"]:
            reasons.append(f"{name} has {size} bytes instead of {entry['bytes']}")
        else:
            whole.append(name)
    if digests:
        try:
            found = {name: digest for name, digest, _ in _digests(path, whole)}
        except OSError as error:
            return [*reasons, f"{error.filename or path.name} cannot be read ({error.strerror})"]
        altered = [name for name in whole if found[name] != entries[name]["sha256"]]
        reasons += [f"{name} does not match its sha256 in the manifest" for name in altered]
    return reasons


def _read_manifest(path: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """The entries of a checkpoint's manifest, or why there are none."""
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
