"""Whether a run, pipeline, stage, model folder or checkpoint on disk is whole; `ftcli verify` prints it.

Files are compared with their digests, with what their kind of run needs and with each other. Nothing is loaded, no code
of a folder is run, nothing is written, and nothing is asked over a network.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from ftcli.build import gate, record_files
from ftcli.build.inputs import run_inputs
from ftcli.core.errors import ConfigError
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.models import sources
from ftcli.models.stored_files import model_faults, weight_fault
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.runs import checkpoints, rundir
from ftcli.runs.checkpoints import MANIFEST, step_of
from ftcli.settings.run_spec import RunSpec
from ftcli.synthesis.journal import ITEMS
from ftcli.synthesis.runner import DATA, sha256_of
from ftcli.synthesis.synthesis_spec import FILE, SynthesisSpec

_ANEW = "start a new run with ftcli train --from "


@dataclass(frozen=True)
class Verdict:
    """What was found about one file or folder."""

    what: str
    """Its path below the folder that is verified."""
    state: Literal["ok", "note", "fault"]
    """`note`: nothing is lost, but something was not compared or is not as usual."""
    detail: str = ""
    fix: str = ""


def kind_of(place: Path) -> str | None:
    """What is in a folder: pipeline, run, stage, checkpoint, model or export; None for anything else."""
    if rundir.is_pipeline(place):
        return "pipeline"
    if rundir.is_run(place):
        return "run"
    if (place / FILE).is_file():
        return "stage"
    if step_of(place) is not None:
        return "checkpoint"
    if (place / "config.json").is_file() or sources.is_adapter_folder(place):
        return "model"
    return "export" if (place / MANIFEST).is_file() and any(place.glob("*.gguf")) else None


def verdicts(place: Path) -> Iterator[Verdict]:
    """A verdict on each thing in a folder of one of these kinds; where a link leads out of it, on that alone."""
    of_run = place.name == rundir.MODEL and rundir.is_run(place.parent)
    try:
        rundir.require_own_files(place.parent if of_run else place)
    except ConfigError as error:
        for each in error.problems:
            what = each.where.removeprefix(f"{place}{os.sep}")
            yield Verdict(what, "fault", f"{each.what}; the rest of the folder was not read", each.fix)
        return
    match kind_of(place):
        case "pipeline":
            yield from _of_pipeline(place)
        case "run":
            yield from _of_run(place)
        case "stage":
            yield from _of_stage(place)
        case "checkpoint":
            yield from _of_checkpoint(place)
        case "export":
            yield from _of_export(place)
        case _ if of_run:
            finished = (place.parent / rundir.RESULT).is_file()
            yield from _of_final(place.parent, _ANEW + shell_word(place.parent), finished=finished)
        case _:
            yield from _of_model(place, place.name)


# --- runs ----------------------------------------------------------------------------------------------------


def _of_run(run: Path) -> Iterator[Verdict]:
    again = _ANEW + shell_word(run)
    try:
        rundir.require_free(run)
    except ConfigError:
        yield Verdict(rundir.LOCK, "note", "another process is using the run, so what it is writing may differ")
    spec = None
    try:
        spec = gate.opened(run)
        yield Verdict(rundir.SPEC, "ok")
    except ConfigError as error:
        yield from (Verdict(rundir.SPEC, "fault", f"{each.where}: {each.what}", each.fix) for each in error.problems)
    finished = (run / rundir.RESULT).is_file()
    yield from record_verdicts(run, again, finished=finished)
    needs = () if spec is None else files_to_resume(spec)
    yield from _of_checkpoints(run / rundir.CHECKPOINTS, needs, again)
    yield from _of_start(run, again)
    yield from _of_final(run, again, finished=finished)
    if spec is not None:
        yield from _of_inputs(run, spec, finished=finished)


def record_verdicts(run: Path, again: str, *, finished: bool) -> Iterator[Verdict]:
    """Of result, row ledger and metrics."""
    for name, fault in record_files.faults(run, finished=finished):
        yield Verdict(name, "fault" if fault else "ok", fault, again if fault else "")
    if not finished:
        fix = f"ftcli train --resume {shell_word(rundir.whole(run))} goes on"
        yield Verdict(rundir.RESULT, "note", "not there: the run is not finished", fix)


def _of_checkpoints(root: Path, needs: Sequence[str], again: str) -> Iterator[Verdict]:
    """Of each checkpoint, oldest first, and of what killed runs left."""
    found = {path: checkpoints.verify(path, needs=needs) for path in checkpoints.named(root)}
    valid = [path.name for path, reasons in found.items() if not reasons]
    for path, reasons in found.items():
        fix = f"nothing to do: a resume takes {valid[-1]}" if valid else again
        name = f"{root.name}/{path.name}"
        yield Verdict(name, "fault", "; ".join(reasons), fix) if reasons else Verdict(name, "ok", "resumable")
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.name.startswith((".staging-", ".trash-")):
            yield Verdict(f"{root.name}/{path.name}", "note", "left by a run that was killed; the next start clears it")
        elif path.name.startswith(".damaged-"):
            yield Verdict(f"{root.name}/{path.name}", "note", "set aside by a resume; nothing reads it")


def _of_start(run: Path, again: str) -> Iterator[Verdict]:
    """Of what an adapter starts from, where that was computed."""
    file = run / rundir.INITIALISATION
    if file.is_file():
        fault = weight_fault(file)
        yield Verdict(file.name, "fault" if fault else "ok", fault, again if fault else "")


def _of_final(run: Path, again: str, *, finished: bool) -> Iterator[Verdict]:
    """Of the trained model."""
    folder = run / rundir.MODEL
    if not folder.is_dir():
        if finished:
            yield Verdict(folder.name, "fault", "the run is finished, and its model is not there", again)
        return
    due = None
    with suppress(ConfigError):  # reported as a record of the run
        due = (rundir.read_result(run) or {}).get("model_manifest")
    yield from _of_model(folder, folder.name, again, due)


def _of_inputs(run: Path, spec: RunSpec, *, finished: bool) -> Iterator[Verdict]:
    """Of what the run read when it began; a finished run has no need of it any more."""
    try:
        unchecked = run_inputs.require_unchanged(spec, run, remote=False)
        yield Verdict(rundir.INPUTS, "note" if unchecked else "ok", unchecked)
    except ConfigError as error:
        for each in error.problems:
            detail = f"{each.where} {each.what}"
            if finished:
                detail = f"{detail.partition(';')[0]}, so ftcli train --from would read something else"
            yield Verdict(rundir.INPUTS, "note" if finished else "fault", detail, each.fix)


# --- checkpoints and models ----------------------------------------------------------------------------------


def _of_checkpoint(path: Path) -> Iterator[Verdict]:
    """Of one checkpoint, by its run's kind where it lies in a run."""
    run = path.parent.parent
    needs: Sequence[str] = ()
    if rundir.is_run(run):
        try:
            needs = files_to_resume(gate.opened(run))
        except ConfigError as error:
            yield from (Verdict(rundir.SPEC, "fault", each.what, each.fix) for each in error.problems)
    else:
        yield Verdict(path.name, "note", "lies in no run: only what its manifest lists is known to belong to it")
    reasons = checkpoints.verify(path, needs=needs)
    fix = "resume from the one before it: ftcli train --resume RUN skips it"
    yield from (Verdict(path.name, "fault", reason, fix) for reason in reasons)
    if not reasons:
        yield Verdict(path.name, "ok", "resumable")


def _of_export(folder: Path) -> Iterator[Verdict]:
    """Of files for another program, which only their digests tell of."""
    faults = checkpoints.verify(folder, needs=())
    again = "write it again with ftcli export"
    yield from (Verdict(f"{folder.name}/", "fault", fault, again) for fault in faults)
    if not faults:
        yield Verdict(f"{folder.name}/", "ok", "every file has the digest in its manifest")


def _of_model(folder: Path, name: str, again: str = "", due: str | None = None) -> Iterator[Verdict]:
    """Of the files of a model or adapter.

    Args:
        again: how to make it again; "" where that is not known.
        due: the digest of its manifest, where the run that made it stored that.
    """
    again = again or "take it from its source again"
    faults = list(model_faults(folder))
    manifest = folder / MANIFEST
    if manifest.is_file():
        faults += [each for each in checkpoints.verify(folder, needs=()) if each not in faults]
        if due is not None and _digest(manifest) != due:
            faults.append(f"{MANIFEST} is not the one that the run wrote")
        told = "every file has the digest in its manifest"
    elif due is not None:
        faults.append(f"{MANIFEST} is missing, so no digest is known")
    else:
        told = "no digests: headers and sizes are right, but a changed weight would not be noticed"
    yield from (Verdict(f"{name}/", "fault", fault, again) for fault in faults)
    if not faults:
        yield Verdict(f"{name}/", "ok" if manifest.is_file() else "note", told)
    if sources.is_adapter_folder(folder):
        yield from _of_base(folder, name)


def _digest(file: Path) -> str | None:
    """The digest of a file of text; None where it cannot be read."""
    try:
        return sha256(foreign_files.read_bytes(file)).hexdigest()
    except (OSError, ValueError):
        return None


def _of_base(folder: Path, name: str) -> Iterator[Verdict]:
    """Of the model below an adapter."""
    try:
        base = sources.base_of(folder)
        bottom = sources.foundation(sources.ModelSource(folder=folder, is_adapter=True))
    except ConfigError as error:
        yield from (Verdict(f"{name}/", "fault", f"{each.where}: {each.what}", each.fix) for each in error.problems)
        return
    if bottom is None:
        fix = f"restore that folder, or set base_model_name_or_path in {sources.ADAPTER}"
        yield Verdict(f"{name}/", "fault", f"its base model is not there: {base}", fix)
    elif bottom.folder is None:
        yield Verdict(f"{name}/", "note", f"its base model {bottom.hub_id} is of the hub, and not compared")
    else:
        for fault in model_faults(bottom.folder):
            yield Verdict(f"{name}/", "fault", f"its base model {bottom.folder}: {fault}", "restore that folder")


# --- pipelines -----------------------------------------------------------------------------------------------


def _of_pipeline(folder: Path) -> Iterator[Verdict]:
    """Of a pipeline and each of its stages."""
    try:
        stages = rundir.read_pipeline(folder)["stages"]
    except ConfigError as error:
        yield from (Verdict(rundir.PIPELINE, "fault", each.what, each.fix) for each in error.problems)
        return
    yield Verdict(rundir.PIPELINE, "ok")
    for name, stage in stages.items():
        place = folder / name
        if stage.get("ready"):
            yield Verdict(f"{name}/", "note", f"taken from elsewhere: {stage['ready']}")
        elif not place.is_dir():
            yield Verdict(f"{name}/", "note", "has not begun")
        elif kind_of(place) not in ("run", "stage"):
            fix = f"ftcli train --resume {shell_word(folder)} begins it anew"
            yield Verdict(f"{name}/", "fault", "is no run and no stage", fix)
        else:
            for each in verdicts(place):
                yield Verdict(f"{name}/{each.what}", each.state, each.detail, each.fix)


def _of_stage(place: Path) -> Iterator[Verdict]:
    """Of a stage that makes rows: its spec, its journal and its rows."""
    again = f"ftcli train --resume {shell_word(place.parent)} writes it anew"
    try:
        SynthesisSpec.load(place / FILE)
        yield Verdict(FILE, "ok")
    except ConfigError as error:
        yield from (Verdict(FILE, "fault", each.what, again) for each in error.problems)
    result = None
    try:
        result = rundir.read_result(place)
        yield Verdict(rundir.RESULT, "ok") if result else Verdict(rundir.RESULT, "note", "the stage is not finished")
    except ConfigError as error:
        yield from (Verdict(rundir.RESULT, "fault", each.what, again) for each in error.problems)
    for name in (ITEMS, DATA):
        if (place / name).is_file():
            fault = record_files.line_fault(place / name, cut=name == ITEMS and result is None)
            yield Verdict(name, "fault" if fault else "ok", fault, again if fault else "")
        elif result is not None:
            yield Verdict(name, "fault", "is missing although the stage is finished", again)
    if result is not None and (place / DATA).is_file() and sha256_of(place) != result.get("sha256"):
        yield Verdict(DATA, "note", "was edited since the stage made it; stages after it read the edited rows")
