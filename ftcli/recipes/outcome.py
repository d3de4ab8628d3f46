"""What a run came to, in a form that another run of the same recipe can be compared with, bit for bit or within bounds.

Left out is what no two runs share: seconds, rates, memory, and where files lie.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir

LOSS_BOUND = 0.02
"""Relative: losses on other hardware, or with other versions, may differ by this share."""
SCORE_BOUND = 0.05
"""Absolute: scores there may differ by this much."""

_OF_TIME = re.compile(r".*(_seconds|_runtime|_per_second|_time|_gib|_memory)|mfu|step_time|elapsed.*")
_OF_PLACE = ("path", "errors")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One thing that was compared."""

    what: str
    locked: Any
    now: Any
    state: str
    """same, within (the bounds), sampled (from a model, on another machine or anew), or differs."""


def of_run(run: Path) -> dict[str, Any]:
    """The outcome of a finished run.

    Raises:
        ConfigError: it is not finished, or what it wrote is damaged.
    """
    result = rundir.read_result(run)
    if result is None:
        fix = f"finish it with ftcli train --resume {shell_word(run)}"
        raise ConfigError(Problem(str(run), "is not finished, so there is nothing to compare", fix))
    with rundir.stored(run):
        losses = result.get("eval_loss") or {}
        score = result.get("score") or {}
        return {
            "steps": int(result["steps"]),
            "tokens_trained": int(result["tokens_trained"]),
            "tokens": _tokens(run),
            "ledger": _digest(_placeless(foreign_files.read_json(run / rundir.LEDGER))),
            "loss_first": result.get("loss_first"),
            "loss_last": result.get("loss_last"),
            "train_loss": result.get("train_loss"),
            "eval_loss": losses.get("after"),
            "score": score.get("after"),
            "metrics": _digest(list(_timeless(run / rundir.METRICS))),
            "weights": _weights(run / rundir.MODEL),
        }


EXACTLY = ("steps", "tokens_trained", "tokens", "ledger")
"""The same on every hardware."""
BOUNDED = {"loss_first": LOSS_BOUND, "loss_last": LOSS_BOUND, "train_loss": LOSS_BOUND, "eval_loss": LOSS_BOUND}
BITS = ("metrics", "weights")
"""Compared only where a run is the same bit for bit."""
OF_ROWS = ("items", "rows", "dropped", "sha256")
"""What a synthesis stage comes to: `sha256` is of the rows that it made."""


def of_rows(result: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome of a finished synthesis stage."""
    return {name: result[name] for name in OF_ROWS}


def compared(
    locked: Mapping[str, Any], now: Mapping[str, Any], *, exact: bool, sampled: bool = False
) -> list[Comparison]:
    """The outcome of a run, or of a synthesis stage, beside the locked one.

    Args:
        exact: bit for bit, as on a CPU with the same packages.
        sampled: it made rows, or read some that another stage made, which are other ones unless all is exact; only the
            score of a run is then held to its bound.
    """
    found = []
    if OF_ROWS[-1] in locked:
        for what in OF_ROWS:
            state = "same" if locked.get(what) == now.get(what) else "differs" if exact else "sampled"
            found.append(Comparison(what=what, locked=locked.get(what), now=now.get(what), state=state))
        return found
    for what in (*EXACTLY, *BOUNDED, "score", *BITS):
        if not exact and what in BITS:
            continue
        before, after = locked.get(what), now.get(what)
        state = "same" if before == after else "differs"
        if state == "differs" and not exact and what not in EXACTLY and _within(what, before, after):
            state = "within"
        if state == "differs" and not exact and sampled and what != "score":
            state = "sampled"
        found.append(Comparison(what=what, locked=before, now=after, state=state))
    return found


def malformed(outcome: Any) -> bool:
    """Whether a locked outcome, which may come from anyone, has another form than `of_run` and `of_rows` give it."""
    if isinstance(outcome, dict) and set(outcome) == set(OF_ROWS):
        counts = [outcome["items"], outcome["rows"]]
        counts += outcome["dropped"].values() if isinstance(outcome["dropped"], dict) else [None]
        digest = outcome["sha256"]
        return not (all(type(each) is int for each in counts) and isinstance(digest, str) and _DIGEST.fullmatch(digest))
    if not isinstance(outcome, dict) or set(outcome) != {*EXACTLY, *BOUNDED, "score", *BITS}:
        return True
    numbers = [outcome[name] for name in (*BOUNDED, "score")]
    if not all(each is None or isinstance(each, (int, float)) for each in numbers):
        return True
    if not all(type(outcome[name]) is int for name in ("steps", "tokens_trained")):
        return True
    digests = [outcome["ledger"], outcome["metrics"]]
    for name in ("tokens", "weights"):
        if not isinstance(outcome[name], dict):
            return True
        digests += outcome[name].values()
    return not all(isinstance(each, str) and _DIGEST.fullmatch(each) for each in digests)


def _within(what: str, before: Any, after: Any) -> bool:
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return False
    if what == "score":
        return abs(before - after) <= SCORE_BOUND
    return math.isclose(before, after, rel_tol=BOUNDED[what])


def _tokens(run: Path) -> dict[str, str]:
    """The digests of what makes tokens of the rows."""
    found = foreign_files.read_json(run / rundir.ENVIRONMENT).get("tokens", {})
    return {str(name): str(each) for name, each in found.items()}


def _weights(folder: Path) -> dict[str, str]:
    return {file.name: file_digest(file) for file in sorted(folder.glob("*.safetensors"))}


def file_digest(file: Path) -> str:
    """Hex sha256 of all bytes of a file."""
    with foreign_files.opened(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _timeless(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl without what was measured in time."""
    for raw in foreign_files.read_lines(file):
        line = foreign_files.parse_json(raw)
        yield {key: value for key, value in line.items() if not _OF_TIME.fullmatch(key)}


def _placeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _placeless(each) for key, each in value.items() if key not in _OF_PLACE}
        if isinstance(where := kept.get("where"), str):  # FILE:LINE, of which the folder is its owner's
            kept["where"] = os.path.basename(where)
        return kept
    return [_placeless(each) for each in value] if isinstance(value, list) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
