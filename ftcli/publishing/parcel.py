"""What `ftcli push` sends: the files of a run's model, or of one of its exports, once they are found whole.

Nothing is sent that the manifest of the folder does not list, but for the manifest itself and the model's card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ftcli.build import gate
from ftcli.build.verification import verdicts
from ftcli.core.errors import CheckpointError, ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.evaluations import retention
from ftcli.models import sources
from ftcli.runs import rundir
from ftcli.runs.checkpoints import MANIFEST, read_manifest
from ftcli.runs.model_card import CARD, model_card
from ftcli.settings.run_spec import RunSpec

_HUB_MODEL = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_MADE_WITH = re.compile(r"^\| made with \|.*\n", re.MULTILINE)
OWN, EDITED, NEW = "as ftcli wrote it", "edited", "written for this"
"""What a card is: the run's own, somebody's, or one for a folder that had none."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One file that is sent."""

    name: str
    """Its path in the repository."""
    source: Path | bytes
    """Where it lies, or what it holds."""
    size: int
    """In bytes."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """The files that are sent, and what is printed about them."""

    run: Path
    folder: Path
    files: Sequence[Sent]
    left: Sequence[str]
    """What else lies in the folder, and stays there."""
    base: str
    licence: str | None
    """That of the base; None where it is not known."""
    card: str
    """OWN, EDITED or NEW."""
    gate: Sequence[str] | None
    """How the run failed its gate, a line each; None where it has none."""

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(each.size for each in self.files)

    @property
    def place(self) -> str:
        """The folder, below the run's."""
        return self.folder.relative_to(self.run).as_posix()

    @property
    def digest(self) -> str:
        """That of the manifest, which names the digest of every file of the model."""
        return next(each.sha256 for each in self.files if each.name == MANIFEST)


def packed(name: str, export: str | None, where: str) -> Parcel:
    """What is sent of a run.

    Args:
        export: the name of one of its exports; None for the model as it was trained.
        where: the command, for messages.

    Raises:
        ConfigError: there is no such run, it is not finished, it is in use, or its files ask for what no file may.
        CheckpointError: a file is damaged or missing, or is not what its digest says.
    """
    run = _require_run(name, where)
    folder = _folder(run, export, where)
    rundir.require_free(run)
    spec = gate.opened(run)
    result = rundir.read_result(run)
    if result is None:
        fix = f"ftcli train --resume {shell_word(rundir.whole(run))} goes on"
        raise ConfigError(Problem(where, f"{run} is not finished", fix))
    files = {**_whole(run, folder, result), **_read(folder, (MANIFEST,))}
    _require_findable_base(folder, run, where)
    with rundir.stored(run / rundir.RESULT):
        own = model_card(spec, result, is_adapter=sources.is_adapter_folder(folder))
        judged = _judged(result)
    card, text = _card(folder, own)
    files[CARD] = Sent(name=CARD, source=text, size=len(text), sha256=sha256(text).hexdigest())
    there = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return Parcel(
        run=run,
        folder=folder,
        files=[files[each] for each in sorted(files)],
        left=sorted({*there} - {*files}),
        base=_shown_base(spec),
        licence=spec.model.licence,
        card=card,
        gate=judged,
    )


def _require_run(name: str, where: str) -> Path:
    place = Path(name)
    if sources.is_model_folder(name) and not (place.name == rundir.MODEL and rundir.is_run(place.parent)):
        what = f"{name} lies in no run, so nothing tells where it comes from and what it was trained on"
        raise ConfigError(Problem(where, what, "name a run, and an export of it with --export"))
    return rundir.require_run(name, where)


def _folder(run: Path, export: str | None, where: str) -> Path:
    """The folder in a run that is sent.

    Args:
        export: the name of an export; None for the model itself.
    """
    if export is None:
        return run / rundir.MODEL
    root = run / rundir.EXPORTS
    known = sorted(each.name for each in root.iterdir() if each.is_dir()) if root.is_dir() else []
    if export not in known:
        again = f"exports of it: {', '.join(known)}" if known else f"write one first: ftcli export {shell_word(run)}"
        raise ConfigError(Problem(f"{where} --export {shell_word(export)}", "is no export of the run", again))
    return root / export


def _whole(run: Path, folder: Path, result: Mapping[str, Any]) -> dict[str, Sent]:
    """The files that a manifest lists, each with its digest."""
    faults = [each for each in verdicts(folder) if each.state == "fault"]
    problems = [Problem(str(folder / each.what), each.detail, each.fix) for each in faults]
    entries, fault = read_manifest(folder)
    if fault and not problems:
        fix = (
            f"write it anew: ftcli train --from {shell_word(run)}"
            if folder.name == rundir.MODEL
            else f"remove {folder}, and write it anew: ftcli export {shell_word(run)}"
        )
        problems.append(Problem(str(folder), f"{fault}, so no digest is known", fix))
    if folder.name == rundir.MODEL and not problems and not isinstance(result.get("model_manifest"), str):
        what = "holds no digest of the model, so nothing tells that it is the one that was trained"
        again = f"ftcli train --from {shell_word(run)}"
        problems.append(Problem(str(run / rundir.RESULT), what, f"start a new run with {again}"))
    if problems:
        raise CheckpointError(*problems)
    return {
        name: Sent(name=name, source=folder / name, size=entry["bytes"], sha256=entry["sha256"])
        for name, entry in entries.items()
    }


def _read(folder: Path, names: Sequence[str]) -> dict[str, Sent]:
    found = {name: foreign_files.read_bytes(folder / name) for name in names}
    return {
        name: Sent(name=name, source=text, size=len(text), sha256=sha256(text).hexdigest())
        for name, text in found.items()
    }


def _require_findable_base(folder: Path, run: Path, where: str) -> None:
    """Check that others find the base of an adapter: the path of a folder of this machine leads them nowhere, and tells
    them how its folders are called."""
    if sources.is_adapter_folder(folder) and not _HUB_MODEL.fullmatch(base := sources.base_of(folder)):
        what = f"is an adapter on {base}, a folder of this machine, which nobody else has"
        merged = f"merge them with ftcli export {shell_word(run)}, then push that: {where} --export folder"
        raise ConfigError(Problem(where, what, merged))


def _shown_base(spec: RunSpec) -> str:
    base = spec.model.name_or_path
    return base if _HUB_MODEL.fullmatch(base) else Path(base).name or base


def _card(folder: Path, own: str) -> tuple[str, bytes]:
    """What the card of a folder is, and its text; one that ftcli writes has no row and no answer in it."""
    try:
        text = foreign_files.read_text(folder / CARD)
    except FileNotFoundError:
        return NEW, own.encode()
    except (OSError, ValueError) as error:
        raise CheckpointError(Problem(str(folder / CARD), f"cannot be read: {error}", "remove it")) from None
    same = _MADE_WITH.sub("", text) == _MADE_WITH.sub("", own)
    return (OWN if same else EDITED), text.encode()


def _judged(result: Mapping[str, Any]) -> Sequence[str] | None:
    kept = result.get("retention")
    if not kept or not kept.get("gate"):
        return None
    return [str(each) for each in kept.get("failed") or retention.failures(kept["gate"], kept)]
