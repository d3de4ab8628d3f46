"""`ftcli push RUN REPOSITORY`: upload a run's model, or an export of it, to a hub repository, where you say so.

Without --push-to-hub nothing is sent. The repository is private unless you say --public. What is sent is printed
before: files and bytes, the licence of the base, and whether the card is the one that ftcli wrote, which holds no row.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.runs import provenance, rundir
from ftcli.settings.ownership import PUSH

if TYPE_CHECKING:
    from ftcli.publishing.hub_upload import Pushed, Target
    from ftcli.publishing.parcel import Parcel

SUMMARY = "upload a run's model or export with its card to a hub repository, where you say so"
ORDER = 127
_CARDS = {
    "as ftcli wrote it": "as ftcli wrote it: names of data sets and numbers of rows; no row, no answer",
    "written for this": "written for this: names of data sets and numbers of rows; no row, no answer",
    "edited": "edited, and sent as it is: read it for rows before you send it",
}


def run(argv: Sequence[str]) -> int:
    """Print what is sent; with the grant, send it and note the commit in the run."""
    options = _options(argv)
    from ftcli.publishing import hub_upload, parcel, push_record  # only here: help needs no checks

    where = f"ftcli push {shell_word(options.run)} {shell_word(options.repository)}"
    if not hub_upload.REPOSITORY.fullmatch(options.repository):
        what = f"{options.repository} is no repository of a hub"
        raise ConfigError(Problem(where, what, "ORGANISATION/NAME, or USER/NAME"))
    target = hub_upload.Target(repository=options.repository, public=options.public, replaces=options.replace)
    found = parcel.packed(options.run, options.export, where)
    push_record.read(found.run)  # which is written in afterwards
    if not options.json:
        _print(found, target)
    if options.dry_run:
        if not options.json:
            output.say(f"nothing was sent: {PUSH} in place of --dry-run sends it")
        return _answered(options, found, target, None)
    if not options.push_to_hub:
        fix = f"add {PUSH}, or --dry-run to see what would be sent"
        raise ConfigError(Problem(where, f"sends {found.size:,} bytes to {target.url}, which needs {PUSH}", fix))
    with rundir.exclusive(found.run):
        pushed = hub_upload.upload(found, target, where, _noted(options))
        push_record.add(found.run, _record(found, target, pushed))
    return _answered(options, found, target, pushed)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments.parser("push", __doc__ or "")
    parser.add_argument("run", metavar="RUN", help="a finished run (directory or name)")
    parser.add_argument("repository", metavar="REPOSITORY", help="USER/NAME at the hub; it is made where there is none")
    what = "send the export RUN/export/NAME, as folder or gguf-q8_0 (default: the model as it was trained)"
    parser.add_argument("--export", metavar="NAME", help=what)
    parser.add_argument(PUSH, action="store_true", help="send it; without this flag nothing is sent")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")
    parser.add_argument("--public", action="store_true", help="make it public (default: private)")
    parser.add_argument(
        "--replace", action="store_true", help="remove other files of the repository that a program would load"
    )
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if options.dry_run and options.push_to_hub:
        raise ConfigError(Problem("--dry-run", f"sends nothing, and {PUSH} sends", "leave out one of them"))
    return options


def _noted(options: argparse.Namespace) -> Any:
    return (lambda line: None) if options.json else output.note


def _record(found: Parcel, target: Target, pushed: Pushed) -> dict[str, Any]:
    from ftcli.publishing.hub_upload import endpoint

    return {
        "repository": target.repository,
        "endpoint": endpoint(),
        "commit": pushed.commit,
        "private": pushed.private,
        "folder": found.place,
        "manifest": found.digest,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _print(found: Parcel, target: Target) -> None:
    rows = [
        ("to", f"{target.url}, {'public' if target.public else 'private'}"),
        ("from", f"{found.folder}"),
        ("base", f"{found.base}, {found.licence or 'licence not known here: see where it comes from'}"),
        ("card", _CARDS[found.card]),
    ]
    if found.gate is not None:
        rows.append(("gate", "; ".join(found.gate) if found.gate else "passed"))
    rows.append(("files", f"{len(found.files)}, {found.size:,} bytes in all"))
    rows += [("", f"{each.name}  {each.size:,}") for each in found.files]
    if found.left:
        rows.append(("not sent", ", ".join(found.left)))
    output.table(rows)


def _answered(options: argparse.Namespace, found: Parcel, target: Target, pushed: Pushed | None) -> int:
    if options.json:
        from dataclasses import asdict

        files = [{"name": each.name, "bytes": each.size, "sha256": each.sha256} for each in found.files]
        about: dict[str, Any] = {"base": found.base, "licence": found.licence, "card": found.card, "gate": found.gate}
        said: dict[str, Any] = {"repository": target.url, "public": target.public, "folder": str(found.folder), **about}
        said |= {"files": files, "not_sent": found.left, "pushed": asdict(pushed) if pushed else None}
        output.data({**said, provenance.KEY: provenance.of_folder(found.run)})
        return EXIT_DONE
    if pushed is not None:
        output.say(f"sent: {target.url} at {pushed.commit}, noted in {found.run / rundir.PUSHES}")
        for what, names in (("removed there", pushed.removed), ("also there", pushed.kept)):
            if names:
                output.say(f"  {what}: {', '.join(names)}")
    return EXIT_DONE
