"""`ftcli data check|preview|prepare [FILE] [group=choice] [key=value]`: how a run would read and tokenise its data.
`ftcli data dropped RUN`: the rows that a run did not train on, and why."""

from __future__ import annotations

import argparse
import gc
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcli.build.resolve import run_of
from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, DataError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.data import dropped_rows, row_sets
from ftcli.data.ledger_text import ledger_lines, set_lines
from ftcli.models.known_shapes import tokenizer_folder
from ftcli.models.templates.chat_template import renders
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import provenance, rundir

SUMMARY = "check, preview or prepare the rows of a run: errors, quality checks, tokens"
ORDER = 130

_ACTIONS = ("check", "preview", "prepare", "dropped")


def run(argv: Sequence[str]) -> int:
    """Run one action on the data of a composed run: `ftcli data check FILE method=dpo`."""
    options = _parse(argv)
    if options.action == "dropped":
        return _dropped(options)
    resolved = run_of(arguments.request(options, tell=False))
    spec = resolved.spec
    if options.action == "check" and options.rows_only:
        return _check_rows(resolved, options.json)
    if spec.data.streaming and options.action != "preview":
        what = f"a stream is tokenised during training, but ftcli data {options.action} would store all its tokens"
        raise ConfigError(
            Problem("data.streaming", what, "leave it out, or check the rows alone with check --rows-only")
        )
    from ftcli.cli.requirements import require_model
    from ftcli.launch.worker_request import WorkerFailed, answers

    require_model(spec)
    trust = spec.model.trust_remote_code or options.trust_remote_code
    request: dict[str, Any] = {"spec": spec.to_json(), "trust_remote_code": trust, "json": options.json}
    try:
        if options.action == "preview":
            return _preview(request, options, provenance.of_spec(spec))
        [found] = answers("data", request)
    except WorkerFailed as failed:
        return failed.code
    if options.json:
        output.data(
            {"problems": found["problems"]}
            if "problems" in found
            else {**found, provenance.KEY: provenance.of_spec(spec)}
        )
        return int(found.get("exit_code", EXIT_DONE))
    output.lines(ledger_lines(found))
    if options.action == "prepare":
        output.say(f"prepared in {found['store']}; a run with the same data, model and method reuses it")
    return EXIT_DONE


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments.parser("data", __doc__ or "")
    parser.add_argument("action", choices=_ACTIONS)
    arguments.add_overrides(parser)
    parser.add_argument("--rows-only", action="store_true", help="check: read the rows only, without a tokenizer")
    parser.add_argument("--rows", type=int, default=3, help="preview: number of rows (default 3)")
    parser.add_argument("--line", type=int, help="preview: start at this line of the file")
    parser.add_argument("--index", type=int, help="preview: start at this row of a JSON array, from 0")
    parser.add_argument("--html", type=Path, metavar="FILE", help="preview: write an HTML page instead of printing")
    parser.add_argument("--reason", help="dropped: only rows with this reason, or a part of it")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if options.rows < 1:
        raise ConfigError(Problem(f"--rows {options.rows}", "is out of range", "at least 1"))
    if options.reason is not None and options.action != "dropped":
        raise ConfigError(Problem(f"--reason {options.reason}", "only ftcli data dropped has reasons", "leave it out"))
    return options


def _check_rows(run: ResolvedRun, as_json: bool) -> int:
    """Formats, errors and quality checks from the rows alone: seconds for 100 MB, and no model is needed."""
    from ftcli.data.row_ledger import Ledger, refuse_bad_rows
    from ftcli.data.scan import Scan

    spec, method, ledgers = run.spec, run.method, list[Ledger]()
    if spec.data.near_duplicates is not None:
        what = "--rows-only does not compare rows by their tokens"
        raise ConfigError(Problem("data.near_duplicates", what, "leave out --rows-only, or the setting"))
    held_out = row_sets.eval_set(spec.data, method)
    has_template = renders(spec.model, tokenizer_folder(spec.model))
    gc.collect()  # what composing left, which would stay in memory beside the rows
    gc.freeze()  # and what is left now is not looked at again
    for each in row_sets.every_set(spec.data, method):
        files, ledger = row_sets.fetched(each), Ledger(each.name, each.path)
        limit = spec.data.max_eval_rows if each == held_out else spec.data.max_rows
        how: dict[str, Any] = {"prompts": False, "normalises": False, "has_template": has_template}
        for _ in Scan(files, each.settings, method, ledger, spec.data.eval_group, limit, **how):
            ledger.rows_kept += 1
        ledgers.append(ledger)
    if as_json:
        output.data({"sets": [ledger.to_dict() for ledger in ledgers], provenance.KEY: provenance.of_spec(spec)})
    else:
        for ledger in ledgers:
            output.lines(set_lines(ledger.to_dict(), tokens=False))
    try:
        refuse_bad_rows(ledgers, spec.data.max_bad_share)
    except DataError as error:
        if as_json:
            return error.exit_code
        raise
    return EXIT_DONE


def _dropped(options: argparse.Namespace) -> int:
    """Every row that a run did not train on as it is, a line each."""
    if len(options.overrides) != 1 or "=" in options.overrides[0]:
        what = f"needs the name of one run, not {' '.join(options.overrides) or 'nothing'}"
        raise ConfigError(Problem("ftcli data dropped", what, "ftcli data dropped RUN [--reason WORD] [--json]"))
    run, wanted = rundir.require_run(options.overrides[0], "ftcli data dropped"), options.reason or ""
    rundir.require_own_files(run)
    reasons, own = Counter[str](), provenance.of_folder(run) if options.json else None
    for row in dropped_rows.read(run / rundir.DROPPED):
        reasons[row["reason"]] += 1
        if wanted not in row["reason"]:
            continue
        if options.json:
            output.say(json.dumps({**row, provenance.KEY: own}, ensure_ascii=False))
        else:
            output.say("  ".join(filter(None, (row["where"], row["reason"], row.get("field"), row.get("what")))))
    if wanted and not any(wanted in reason for reason in reasons):
        known = f"its reasons are: {', '.join(reasons)}" if reasons else "it trained on every row"
        raise ConfigError(Problem(f"--reason {wanted}", f"no row of {run} has it", known))
    if not options.json:
        output.note(", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "every row was trained on")
    return EXIT_DONE


def _preview(request: dict[str, Any], options: argparse.Namespace, own: dict[str, Any]) -> int:
    from ftcli.cli import preview
    from ftcli.launch.worker_request import answers

    shown = list(answers("preview", {**request, "rows": options.rows, "line": options.line, "index": options.index}))
    if options.json:
        output.data([{**row, provenance.KEY: own} for row in shown])
    elif options.html is not None:
        options.html.write_text(preview.page(shown), encoding="utf-8")
        output.note(f"written: {options.html}")
    else:
        preview.print_rows(shown)
    return EXIT_DONE
