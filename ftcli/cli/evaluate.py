"""`ftcli eval RUN`: held-out loss and the method's own score, before and after training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ftcli import rundir
from ftcli.cli import arguments, say
from ftcli.data.locate import SourcePath, is_local, locate
from ftcli.errors import EXIT_DONE, ConfigError, Problem
from ftcli.worker_request import WorkerFailed, answers


def run(argv: Sequence[str]) -> int:
    """Measure a finished run on its own held-out rows, or on those of a file."""
    parser = arguments.parser("eval", __doc__ or "")
    parser.add_argument("run", help="a run directory, or a run's name (its newest)")
    parser.add_argument("--data", help="held-out rows, like data.eval_path; the run's own without it")
    parser.add_argument("--rows", type=int, help="at most so many rows")
    arguments.add_trust(parser)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if options.rows is not None and options.rows < 1:
        raise ConfigError(Problem(f"--rows {options.rows}", "is out of range", "at least 1"))
    found = rundir.require_run(options.run, f"ftcli eval {options.run}")
    request = {
        "run": str(found),
        "data": _rows(options.data),
        "rows": options.rows,
        "trust_remote_code": options.trust_remote_code,
    }
    try:
        [measured] = answers("eval", request)
    except WorkerFailed as failed:
        return failed.code
    if options.json:
        say.data(measured)
    else:
        _print(measured)
    return EXIT_DONE


def _rows(path: str | None) -> str | None:
    """What --data names, once it is known to be there; a path of this machine made absolute."""
    if path is None:
        return None
    locate(SourcePath(path=path), f"--data {path}", fetch=True)
    return os.path.realpath(os.path.expanduser(path)) if is_local(path) else path


def _print(measured: Mapping[str, Any]) -> None:
    before, after = measured["before"], measured["after"]
    print(f"{measured['method']} on {measured['data']}, {measured['rows']} rows")
    rows = [("", "before", "after"), ("held-out loss", f"{before['eval_loss']:.4f}", f"{after['eval_loss']:.4f}")]
    for name in (after.get("score") or {}).keys() - {"name", "rows", "value"}:
        rows.append((name, _number((before.get("score") or {}).get(name)), _number(after["score"][name])))
    if score := after.get("score"):
        rows.append(
            (f"{score['name']} ({score['rows']} rows)", _number(before["score"]["value"]), _number(score["value"]))
        )
    say.table(rows)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
