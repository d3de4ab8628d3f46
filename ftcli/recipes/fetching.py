"""A recipe from elsewhere, pinned to its bytes: an address with a digest, or a git or hub repository at a commit.

Nothing that is fetched is trusted. It is read as any stranger's recipe before it is written, under its own name or one
that was typed, beside nothing else of its repository; it grants nothing and nothing of it runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
import urllib.parse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.hub_cache import offline
from ftcli.core.text import shell_word
from ftcli.core.untrusted.foreign_files import MAX_BYTES
from ftcli.data.files.http import look
from ftcli.data.files.urls import is_web, shown
from ftcli.recipes.recipe_lock import SUFFIX

MOST_BYTES = 2**20
"""Of a recipe."""
GIT_SECONDS = 300
_FORMS = (
    "https://HOST/x.yaml#sha256=DIGEST, git+https://HOST/REPOSITORY@COMMIT:x.yaml, or hub:ORG/NAME@COMMIT:x.yaml "
    "(hub:datasets/… for a data set's repository); COMMIT has 40 hexadecimal digits"
)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PINNED = re.compile(r"(?P<place>.+)@(?P<commit>[0-9a-f]{40}):(?P<path>[^:]+)", re.DOTALL)
_HUB_ID = re.compile(r"(?P<kind>(?:datasets|spaces)/)?(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)", re.ASCII)
_PROTOCOLS = "https:http:ssh:git:file"
"""Of git: `ext` and others would run commands that an address names."""
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*\.(yaml|yml|lock)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A recipe, or a lock, and what lay beside it."""

    name: str
    """Its own file name; "" where that is none for a recipe."""
    content: bytes
    lock: bytes | None = None
    """The lock beside it in the same commit."""

    @property
    def digest(self) -> str:
        """Hex sha256 of the content."""
        return hashlib.sha256(self.content).hexdigest()


def fetched(source: str, where: str) -> Fetched:
    """What a pinned source holds.

    Args:
        where: the command, for messages.

    Raises:
        ConfigError: it is not pinned, cannot be had, or is not what it is pinned to.
    """
    if is_web(source):
        return _of_web(source, where)
    if source.startswith(("git+", "hub:")):
        match = _PINNED.fullmatch(source.partition("+" if source.startswith("git+") else ":")[2])
        if match is None:
            raise ConfigError(Problem(where, f"{shown(source)} is not pinned to a commit and a file", _FORMS))
        take = _of_git if source.startswith("git+") else _of_hub
        return take(match["place"], match["commit"], match["path"], where)
    raise ConfigError(Problem(where, f"{source} is no source of recipes", _FORMS))


def web_content(address: str, where: str, most: int = MOST_BYTES) -> bytes:
    """The bytes behind an address.

    Raises:
        ConfigError: they cannot be had, or are too many for a recipe.
    """
    with look(address, where) as file:
        content = file.read(most + 1) or b""
        while len(content) <= most and (more := file.read(most + 1 - len(content))):
            content += more
    if len(content) > most:
        what = f"has more than {most // 2**20} MiB, which no recipe has"
        raise ConfigError(Problem(shown(address), what, "name the address of the YAML file itself"))
    return content


def _of_web(source: str, where: str) -> Fetched:
    address, _, pin = source.partition("#")
    digest = pin.removeprefix("sha256=")
    path = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
    found = Fetched(name=_own_name(path), content=web_content(address, where, _most(path)))
    if not pin:
        what = f"{shown(address)} is not pinned to its bytes, so nothing was written"
        named = shown(address) if shown(address) == address else "ADDRESS"  # which may hold a key
        pinned = shell_word(f"{named}#sha256={found.digest}")
        look_first = f"look at it with ftcli recipe inspect {shell_word(named)}"
        raise ConfigError(Problem(where, what, f"{look_first}, then: ftcli recipe fetch {pinned}"))
    if not pin.startswith("sha256=") or not _DIGEST.fullmatch(digest):
        raise ConfigError(Problem(where, f"#{pin} is no digest", _FORMS))
    if found.digest != digest:
        what = f"{shown(address)} has sha256 {found.digest}, and is pinned to {digest}; nothing was written"
        raise ConfigError(Problem(where, what, "ask who gave you the address what has changed"))
    return found


def _of_hub(place: str, commit: str, path: str, where: str) -> Fetched:
    match = _HUB_ID.fullmatch(place)
    if match is None:
        raise ConfigError(Problem(where, f"{place} is no repository of the hub", _FORMS))
    if variable := offline():
        raise ConfigError(Problem(where, f"{variable} forbids the network", "unset it, or fetch elsewhere"))
    from huggingface_hub import hf_hub_url

    kind = (match["kind"] or "").rstrip("/").rstrip("s") or None

    def address(file: str) -> str:
        endpoint = os.environ.get("HF_ENDPOINT")
        return hf_hub_url(match["id"], file, repo_type=kind, revision=commit, endpoint=endpoint)

    content = web_content(address(path), where, _most(path))
    lock = None
    with suppress(ConfigError):
        lock = web_content(address(_lock_of(path)), where, MAX_BYTES)
    return Fetched(name=_own_name(path), content=content, lock=lock)


def _of_git(place: str, commit: str, path: str, where: str) -> Fetched:
    if place.startswith("-"):
        raise ConfigError(Problem(where, f"{place} is no address of a repository", _FORMS))
    with tempfile.TemporaryDirectory(prefix="ftcli-") as folder:
        _git(folder, where, "init", "--quiet", "--bare", ".")
        # The commit alone. Nothing is checked out, so that no hook, filter or submodule of the repository is touched.
        fetch = ("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", place, commit)
        _git(folder, where, *fetch)
        if _git(folder, where, "cat-file", "-t", commit).strip() != b"commit":
            raise ConfigError(Problem(where, f"{commit} is no commit", _FORMS))
        content = _blob(folder, where, commit, path, _most(path))
        lock = None
        with suppress(ConfigError):
            lock = _blob(folder, where, commit, _lock_of(path), MAX_BYTES)
    return Fetched(name=_own_name(path), content=content, lock=lock)


def _blob(folder: str, where: str, commit: str, path: str, most: int) -> bytes:
    size = int(_git(folder, where, "cat-file", "-s", f"{commit}:{path}"))
    if size > most:
        raise ConfigError(Problem(where, f"{path} has more than {most // 2**20} MiB, which no recipe has", _FORMS))
    return _git(folder, where, "cat-file", "blob", f"{commit}:{path}")


def _git(folder: str, where: str, *words: str) -> bytes:
    """What git says.

    Raises:
        ConfigError: git is not here, or fails.
    """
    # What a calling git would tell its own children does not hold for another repository.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or "SSH" in name}
    environment = {**own, "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": _PROTOCOLS, "LC_ALL": "C"}
    command = ["git", "-C", folder, "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", *words]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=GIT_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise ConfigError(Problem(where, "git is not installed here", "install it, or fetch from an address")) from None
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise ConfigError(Problem(where, f"git cannot fetch it: {error}", "check the address")) from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
        raise ConfigError(Problem(where, f"git cannot have it: {lines[-1]}", "check repository, commit and path"))
    return done.stdout


def _most(path: str) -> int:
    return MAX_BYTES if path.endswith(SUFFIX) else MOST_BYTES


def _lock_of(path: str) -> str:
    return str(Path(path).with_suffix(SUFFIX))


def _own_name(path: str) -> str:
    name = path.rpartition("/")[2]
    return name if _NAME.fullmatch(name) else ""


def vet(found: Fetched, called: str, folder: Path) -> tuple[Path, ...]:
    """Write what was fetched into an empty folder and read it as a stranger's: a plain recipe, a whole lock.

    Args:
        called: the file name that it gets.

    Returns:
        The files.

    Raises:
        ConfigError: it is no plain recipe, or its lock is none of it; every problem.
    """
    try:
        return _vetted(found, called, folder)
    except ConfigError as error:
        # Under the names that they would get, since the folder is gone when they are read.
        inside = os.path.join(folder, "")
        raise ConfigError(*(replace(each, where=each.where.removeprefix(inside)) for each in error.problems)) from None


def _vetted(found: Fetched, called: str, folder: Path) -> tuple[Path, ...]:
    from ftcli.config import recipe_file
    from ftcli.recipes import recipe_lock

    file = folder / called
    file.write_bytes(found.content)
    if file.suffix == SUFFIX:
        recipe_lock.read(file)
        return (file,)
    recipe_file.read(file, allow_path=True)
    if found.lock is None:
        return (file,)
    beside = recipe_lock.place(file)
    beside.write_bytes(found.lock)
    if recipe_lock.read(beside).recipe["sha256"] != found.digest:
        what = "the lock beside the recipe is one of another recipe"
        raise ConfigError(Problem(beside.name, what, "ask who gave you the address for the right one"))
    return file, beside


def problems_of_target(target: Path, names: Sequence[str]) -> list[Problem]:
    """Why files cannot be written beside each other."""
    found = []
    for each in (target.with_name(name) for name in names):
        if os.path.lexists(each):
            found.append(Problem(str(each), "is there already", "name another with --to, or remove it"))
    if not target.parent.is_dir():
        found.append(Problem(str(target.parent), "is no folder", "make it first"))
    return found
