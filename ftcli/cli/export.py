"""`ftcli export RUN`: write a trained model for another program, whole or not at all."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftcli.build import gate
from ftcli.cli import arguments, output
from ftcli.cli.render.differences import difference_rows
from ftcli.core.errors import ConfigError, DiskError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.suggest import suggest
from ftcli.core.text import shell_word
from ftcli.launch.worker_request import WorkerFailed, answers
from ftcli.models.export.exporter import Exporter, Place, Trained, trained_model
from ftcli.models.exporters import exporters
from ftcli.models.sources import adapter_kinds, resolved_source
from ftcli.peft_methods import why_unmerged
from ftcli.runs import provenance, rundir
from ftcli.runs.checkpoints import publish, staging_path, write_manifest

SUMMARY = "write a trained model for vLLM, llama.cpp, Ollama or MLX"
ORDER = 125


def run(argv: Sequence[str]) -> int:
    """Write the export, and print what it is and what serves it."""
    options = _options(argv)
    where = f"ftcli export {shell_word(options.run)}"
    name, kind, exporter = _format(options.to)
    trained = trained_model(options.run, where)
    target = options.out or _beside(trained.folder) / "-".join(filter(None, (name, kind)))
    if os.path.lexists(target):
        raise ConfigError(Problem(where, f"{target} already exists", "remove it, or name another folder with --out"))
    if (found := rundir.find_run(options.run)) is not None:
        gate.opened(found)
    merges = exporter.merges(trained)
    _require_merge(options, trained, exporter, merges, where)
    exporter.check(trained, kind, where)
    _require_room(trained, exporter, kind, merges, target)
    try:
        with _aside(target.absolute(), kind, where) as place:
            merged = _merged(options, trained, exporter, place) if merges else {}
            plain = Path(merged["model"]) if merged else trained.folder
            notes = exporter.write(trained, plain, place)
            write_manifest(place.into)
            publish(place.into, target.absolute())
    except WorkerFailed as failed:
        return failed.code
    said = {"format": name, "type": kind, "folder": str(target), "notes": list(notes), "merge": merged or None}
    said["files"] = {file.name: file.stat().st_size for file in sorted(target.iterdir()) if file.is_file()}
    said["next"] = list(exporter.next_lines(trained, target, kind))
    if options.json:
        own = provenance.of_model(str(trained.folder))
        output.data({**said, **({provenance.KEY: own} if own is not None else {})})
    else:
        _print(said)
    return EXIT_DONE


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments.parser("export", __doc__ or "")
    parser.add_argument("run", metavar="RUN", help="a run (directory or name), or a folder of a model or an adapter")
    forms = ", ".join(f"{name}[:{'|'.join(each.types[:3])}…]" if each.types else name for name, each in
                      exporters().items())  # fmt: skip
    parser.add_argument("--to", metavar="FORMAT", default="folder", help=f"{forms} (default: folder)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: RUN/export/FORMAT)")
    what = "type of the weights of a merged folder (default: that of the base model)"
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help=what)
    arguments.add_trust(parser)
    arguments.add_json(parser)
    return arguments.parse(parser, argv)


def _format(text: str) -> tuple[str, str, Exporter]:
    """The format, its type and its declaration, from FORMAT or FORMAT:TYPE.

    Raises:
        ConfigError: there is no such format or type.
    """
    name, _, kind = text.lower().partition(":")
    known = exporters()
    if name not in known:
        raise ConfigError(Problem(f"--to {text}", f"{name} is no format", suggest(name, tuple(known), "--to ")))
    types = known[name].types
    if kind and not types:
        raise ConfigError(Problem(f"--to {text}", f"{name} has no types to choose from", f"--to {name}, with --dtype"))
    if kind and kind not in types:
        raise ConfigError(Problem(f"--to {text}", f"{kind} is no type of {name}", f"one of {', '.join(types)}"))
    return name, kind or (types[0] if types else ""), known[name]


def _require_merge(options: argparse.Namespace, trained: Trained, exporter: Exporter, merges: bool, where: str) -> None:
    """Check that an adapter can be merged where it must be, and that --dtype has an effect.

    Raises:
        ConfigError: it cannot, or has none.
    """
    if options.dtype != "auto" and (exporter.exact or not merges):
        fix = "choose the type with --to FORMAT:TYPE" if exporter.exact else "leave it out"
        what = "has no effect: " + ("the file has a type of its own" if exporter.exact else "nothing is merged")
        raise ConfigError(Problem(f"--dtype {options.dtype}", what, fix))
    for kind in adapter_kinds(resolved_source(str(trained.folder))) if merges else ():
        if reason := why_unmerged(kind):
            what = f"a {kind} adapter cannot be merged: {reason}"
            raise ConfigError(Problem(where, what, f"ftcli chat {shell_word(options.run)} serves it on its base"))


def _require_room(trained: Trained, exporter: Exporter, kind: str, merges: bool, target: Path) -> None:
    """Check that the disk takes the export, and the merged model beside it.

    Raises:
        DiskError: it does not.
    """
    if (parameters := trained.parameters) is None:
        return
    needed = int(parameters * (exporter.bytes_a_weight(kind) + (4.0 if merges and exporter.exact else 0.0)))
    place = next(each for each in (target.absolute(), *target.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        told = f"takes about {needed / 2**30:.1f} GiB while it is written, and {free / 2**30:.1f} GiB are free"
        raise DiskError(Problem(str(target), told, "free some space, or name a folder on another disk with --out"))


@contextmanager
def _aside(target: Path, kind: str, where: str) -> Iterator[Place]:
    """Folders to write in, which are gone afterwards unless the first was given its name."""
    into, scratch = staging_path(target.parent, target.name), staging_path(target.parent, f"{target.name}-parts")
    try:
        for each in (into, scratch):
            shutil.rmtree(each, ignore_errors=True)
            each.mkdir(parents=True)
        yield Place(into, scratch, kind, where)
    finally:
        for each in (into, scratch):
            shutil.rmtree(each, ignore_errors=True)


def _merged(options: argparse.Namespace, trained: Trained, exporter: Exporter, place: Place) -> dict[str, Any]:
    """The answer of merging an adapter into a folder of the scratch."""
    request = {
        "models": [str(trained.folder)],
        "to": str(place.scratch / "merged"),
        "dtype": "float32" if exporter.exact else options.dtype,
        "trust_remote_code": options.trust_remote_code,
    }
    [answer] = answers("merge", request)
    return dict(answer)


def _beside(folder: Path) -> Path:
    """Where exports of a model go: into its run, else beside its folder."""
    own = folder.name == rundir.MODEL and rundir.is_run(folder.parent)
    return folder.parent / rundir.EXPORTS if own else folder.parent / f"{folder.name}-{rundir.EXPORTS}"


def _print(said: Mapping[str, Any]) -> None:
    rows = [("written", said["folder"])]
    rows += [("", f"{name}  {size / 2**20:,.1f} MiB") for name, size in said["files"].items() if size >= 2**20]
    if merged := said["merge"]:
        rows.append(("merged", f"in {merged['dtype']}, compared with the model as it was trained"))
    output.table(rows)
    if merged:
        output.table(difference_rows(merged["differences"][0]), indent="    ")
    for note in said["notes"]:
        output.note(note)
    output.say("next")
    for line in said["next"]:
        output.say(f"  {line}")
