"""Rows to compare two models on: those that a run held out, those of a file, or a few lines of ordinary text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ftcli.core.errors import ConfigError, FtcliError, Problem
from ftcli.data.scan import Example
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.inference import held_out
from ftcli.worker.inference.examples import ASKABLE, chunks_of, reads_text_as_turns
from ftcli.worker.measures.divergence import Row
from ftcli.worker.models.load import as_granted
from ftcli.worker.tokenise.encoder import IGNORED, Encoder

PLAIN_TEXT = (
    "The capital of France is Paris. It often rains there in spring, so take an umbrella.\n",
    "Thank you for your message. We are sorry that the parcel came late, and have sent a new one today.\n",
    "def area(width, height):\n    return width * height\n\nprint(area(3, 4))\n",
    "Water boils at 100 degrees Celsius at sea level, and a little earlier in the mountains.\n",
    "She opened the window, looked at the garden and said that the roses were late this year.\n",
    "To make bread, mix flour, water, salt and yeast, wait for an hour, and bake it for forty minutes.\n",
)
"""Ordinary text: on token numbers that never follow each other, rounding alone moves a logit by several units."""
TEXT = "lines of ordinary text"
_ALL = 2**31


class Rows(NamedTuple):
    """Rows to compare on."""

    rows: list[Row]
    source: str
    """What they are, for people."""
    why: str = ""
    """Why they are not the held-out rows of the run; empty where they are, or where others were requested."""


def rows_of(model: str, encoder: Encoder, count: int, *, data: str | None = None) -> Rows:
    """Rows to compare a model on, with the tokens of their answers marked.

    Args:
        model: a run or a model folder.
        count: the most rows.
        data: a file of rows, instead of those that the run held out.

    Raises:
        ConfigError, DataError: the rows of the file cannot be used. Those of a run that cannot be read here are
            replaced by ordinary text, with the reason.
    """
    if data is not None:
        rows = islice((each for chunk in _chunks(data, model, encoder) for each in chunk), count)
        return Rows(_encoded(rows, encoder, None), f"rows of {Path(data).name}")
    text = [_whole(encoder.tokenizer(line)["input_ids"]) for line in PLAIN_TEXT]
    run = rundir.find_run(model)
    if run is None:
        return Rows(text, TEXT, "it is the model of no run")
    try:
        spec = _spec(run, {})
        if not held_out.are_there(spec):
            return Rows(text, TEXT, "the run held out no rows")
        found = held_out.held_out(spec, run, encoder, count)
        return Rows(_encoded(found.examples, encoder, found.limit), "held-out rows")
    except FtcliError as error:
        return Rows(text, TEXT, f"its held-out rows cannot be read here: {error.problems[0].what}")


def _chunks(data: str, model: str, encoder: Encoder) -> Any:
    return chunks_of(data, ("text", *ASKABLE), has_template=reads_text_as_turns(model, encoder))


class Requested(NamedTuple):
    """The rows of a request."""

    examples: list[Example]
    limit: int | None
    """The most tokens of a row that a run reads of those that it held out; None for rows of a file."""


def requested(request: Mapping[str, Any], encoder: Encoder, kinds: Sequence[str], reader: str) -> Requested:
    """The rows of a request: those of the file "data", or where it is None those that the run "model" held out.

    Args:
        kinds: the dataset types that are read.
        reader: by what, for messages.

    Raises:
        ConfigError: there are none.
        DataError: unusable rows.
    """
    name, data, most = str(request["model"]), request["data"], request.get("rows") or _ALL
    limit = None
    if data is None:
        own, limit = held_out.held_out(_spec(Path(name), request), Path(name), encoder, most)
        found = [each for each in own if each.kind in kinds]
    else:
        chunks = chunks_of(data, tuple(kinds), has_template=reads_text_as_turns(name, encoder), reader=reader)
        found = list(islice((example for chunk in chunks for example in chunk), most))
    if not found:
        rows = f"held out no rows of the type {' or '.join(kinds)}" if data is None else "has no rows"
        raise ConfigError(Problem(str(data or f"the run {name}"), rows, "name others with --data FILE"))
    return Requested(found, limit)


def _spec(run: Path, request: Mapping[str, Any]) -> RunSpec:
    """A run's, with the permissions of this command alone."""
    spec = RunSpec.load(run / rundir.SPEC)
    return replace(spec, model=as_granted(spec.model, request))


def _encoded(examples: Any, encoder: Encoder, limit: int | None) -> list[Row]:
    rows = []
    for example in examples:
        [encoded] = encoder.encode([example])
        row = _row(encoded.columns)
        rows.append(Row(row.ids[:limit], row.compared[:limit]))
    return [each if any(each.compared[1:]) else _whole(each.ids) for each in rows if len(each.ids) > 1]


def _row(columns: Mapping[str, Any]) -> Row:
    if "input_ids" in columns:
        return Row(columns["input_ids"], [label != IGNORED for label in columns["labels"]])
    prompt = columns["prompt_ids"]
    answer = columns.get("chosen_ids") or columns.get("rejected_ids") or []
    return Row([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))


def _whole(ids: Sequence[int]) -> Row:
    """A row of which every token is compared."""
    return Row(list(ids), [True] * len(ids))
