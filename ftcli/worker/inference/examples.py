"""Examples from a file for inference: prompts to answer, answers to score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from ftcli.data import row_sets
from ftcli.data.formats.conversations import only_read
from ftcli.data.row_ledger import Ledger, refuse_bad_rows
from ftcli.data.row_sets import RowSet
from ftcli.data.scan import Example, Scan
from ftcli.methods import get_method
from ftcli.runs import rundir
from ftcli.settings.groups import SetSettings
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.tokenise.encoder import IGNORED, Encoded, Encoder, Ids

SCORABLE = ("messages", "pair", "preference", "label")
"""Dataset types whose rows hold an answer."""
ASKABLE = ("prompt", *SCORABLE)
"""Dataset types whose rows hold a prompt."""

_CHUNK = 256


def answered_of(encoded: Encoded) -> list[Ids]:
    """The token sequences of a row, each up to the end of its (last) answer."""
    columns = encoded.columns
    if "input_ids" in columns:
        labels = columns["labels"]
        end = max((i + 1 for i, label in enumerate(labels) if label != IGNORED), default=len(labels))
        return [columns["input_ids"][:end]]
    return [columns["prompt_ids"] + columns[side] for side in ("chosen_ids", "rejected_ids") if columns[side]]


def prompt_of(example: Example) -> Any:
    """The prompt of a row: text, or the turns before the model's last answer."""
    if "messages" not in example.value:
        return example.value["prompt"]
    turns = example.value["messages"]
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns))
    return only_read(turns[:last])


def reads_text_as_turns(model: str, encoder: Encoder) -> bool:
    """Whether a model reads the text of a row as turns: it has a chat template, and was not trained on bare text."""
    run = rundir.find_run(model)
    if run is None or not encoder.has_template:
        return encoder.has_template
    data = RunSpec.load(run / rundir.SPEC).data
    sets = [each.get("template", "auto") for each in data.mix.values()] if data.mix else [data.template]
    return set(sets) != {"none"}


def examples_of(path: str, kinds: tuple[str, ...] = ASKABLE) -> Iterator[Example]:
    """The rows of a file, one after the other.

    Raises:
        DataError: one is unusable.
    """
    for chunk in chunks_of(path, kinds):
        yield from chunk


def chunks_of(
    path: str, kinds: tuple[str, ...], *, has_template: bool = False, reader: str = "this command"
) -> Iterator[list[Example]]:
    """The rows of a file, a chunk at a time; an unusable row is an error.

    Args:
        has_template: whether text pairs and prompts are read as turns.
        reader: what needs these types, for errors.
    """
    row_set = RowSet(name="data", key=path, settings=SetSettings(path=path))
    ledger = Ledger("data", path)
    method = replace(get_method("sft"), name=reader, kinds=kinds)
    rows = iter(
        Scan(row_sets.fetched(row_set), row_set.settings, method, ledger, prompts=False, has_template=has_template)
    )
    while chunk := list(islice(rows, _CHUNK)):
        refuse_bad_rows([ledger], 0.0)
        yield chunk
    refuse_bad_rows([ledger], 0.0)
