"""RECIPE.lock: what a measured run of a recipe read, ran with and came to, as one JSON file beside the recipe.

Its text has one form only, and a digest of itself: a byte that was changed anywhere in it is noticed. That tells of
damage, not of intent: whoever writes a lock can write its digest too, so it grants nothing, and the settings in it are
few and are checked like those of any stranger.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.recipes import outcome
from ftcli.runs import rundir
from ftcli.settings.backends import ROLES
from ftcli.settings.ownership import FLAGS

SUFFIX = ".lock"
SCHEMA, OF_PIPELINE = 1, 2
"""Of a run's lock, and of a pipeline's, whose outcome is one for each stage."""
MOST_THREADS = 4096
COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
THREADS = "hardware.num_threads"
_SETTINGS = (THREADS, "model.revision", "data.revision")
_OF_STAGE = (*_SETTINGS, *(f"{role}.revision" for role in ROLES))
_STAGE = re.compile(r"stages\.[a-z0-9_]+\.", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Lock:
    """What a recipe's lock holds."""

    recipe: Mapping[str, str]
    """The recipe's `name` and `sha256`."""
    settings: Mapping[str, Any]
    """Settings that the recipe leaves open and the run had: the commits of hub repositories, and threads on a CPU."""
    files: Mapping[str, Mapping[str, Any]]
    """What the run read, by setting and name: `sha256` and `size`, or the `version` of what is no local file."""
    machine: Mapping[str, Any]
    """`device`, `python`, `machine` and `packages`."""
    grants: tuple[str, ...]
    """The flags that the run was started with. They are asked for again."""
    outcome: Mapping[str, Any]
    """What the run came to; of a pipeline each stage that it ran, by name."""
    schema: int = SCHEMA

    @property
    def of_pipeline(self) -> bool:
        """Whether it is the lock of a pipeline."""
        return self.schema == OF_PIPELINE

    def text(self) -> str:
        """As the text of the file."""
        content = json.loads(json.dumps(asdict(self)))
        return _text({**content, "digest": hashlib.sha256(_text(content).encode()).hexdigest()})


def place(recipe: Path) -> Path:
    """Where a recipe's lock lies."""
    return recipe.with_suffix(SUFFIX)


def write(file: Path, lock: Lock) -> None:
    """Write a lock."""
    rundir.write_atomically(file, lock.text())


def read(file: Path) -> Lock:
    """The lock in a file.

    Raises:
        ConfigError: there is none, it was changed, or it is of a later version.
    """
    try:
        text = foreign_files.read_text(file)
    except OSError as error:
        fix = f"make one from a finished run: ftcli recipe lock {shell_word(file.with_suffix('.yaml'))} RUN"
        raise ConfigError(Problem(str(file), f"the lock cannot be read: {error.strerror}", fix)) from None
    except ValueError as error:
        raise _changed(file, str(error)) from None
    try:
        content = foreign_files.parse_json(text)
        digest = content.pop("digest")
    except (ValueError, LookupError, AttributeError, TypeError):
        raise _changed(file, "it is no lock") from None
    if content.get("schema") not in (SCHEMA, OF_PIPELINE):
        what = f"has schema {content.get('schema')!r}; this version reads {SCHEMA} and {OF_PIPELINE}"
        raise ConfigError(Problem(str(file), what, "use the version of ftcli that wrote it"))
    if digest != hashlib.sha256(_text(content).encode()).hexdigest() or text != _text({**content, "digest": digest}):
        raise _changed(file, "its digest is of another content")
    if odd := _malformed(content):
        raise _changed(file, f"{odd} has another form")
    return Lock(**{**content, "grants": tuple(content["grants"])})


def _changed(file: Path, why: str) -> ConfigError:
    what = f"the lock was changed, or is damaged: {why}"
    return ConfigError(Problem(str(file), what, "get it again from where it came, or lock a run of your own"))


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _malformed(content: Mapping[str, Any]) -> str:
    """The first part that has not the form that this version writes; "" where all have."""
    if set(content) != set(Lock.__dataclass_fields__):
        return "the lock"
    recipe, settings, files = content["recipe"], content["settings"], content["files"]
    if not (isinstance(recipe, dict) and _is_file(recipe) and isinstance(recipe.get("name"), str)):
        return "recipe"
    whole = content["schema"] == OF_PIPELINE
    if not (isinstance(settings, dict) and all(_is_setting(*each, whole) for each in settings.items())):
        return "settings"
    if not (isinstance(files, dict) and all(_is_file(each) for each in files.values())):
        return "files"
    machine = content["machine"]
    packages = machine.get("packages") if isinstance(machine, dict) else None
    if not (isinstance(packages, dict) and all(isinstance(each, str) for each in packages.values())):
        return "machine"
    grants = content["grants"]
    if not (isinstance(grants, list) and all(isinstance(flag, str) and flag in FLAGS for flag in grants)):
        return "grants"
    found = content["outcome"]
    if whole and not (isinstance(found, dict) and found):
        return "outcome"
    odd = any(map(outcome.malformed, found.values())) if whole else outcome.malformed(found)
    return "outcome" if odd else ""


def _is_file(each: Any) -> bool:
    if not isinstance(each, dict):
        return False
    digest, version = each.get("sha256"), each.get("version")
    return bool(isinstance(digest, str) and _SHA256.fullmatch(digest)) or (digest is None and isinstance(version, str))


def _is_setting(name: str, value: Any, of_pipeline: bool) -> bool:
    own = _STAGE.sub("", name, count=1) if of_pipeline else name
    if own not in (_OF_STAGE if of_pipeline and own != name else _SETTINGS):
        return False
    if own == THREADS:
        return type(value) is int and 0 < value <= MOST_THREADS
    return isinstance(value, str) and COMMIT.fullmatch(value) is not None
