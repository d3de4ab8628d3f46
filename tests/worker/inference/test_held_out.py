"""Held-out rows afterwards: each command has those of the run, by its length limit, and says what it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftcli.core.errors import DataError
from ftcli.runs import rundir
from ftcli.settings.groups import ModelSettings
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.commands.eval import evaluate
from ftcli.worker.inference.parity.replay import Replay
from ftcli.worker.measures.held_out_rows import requested, rows_of
from ftcli.worker.models.load import make_encoder
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA, conversation, write_rows

SHORT, LONG = 6, 2
NumberOf = Callable[[Path], int]


def lengthy(number: int) -> dict[str, Any]:
    """A conversation whose answer has many more tokens than the training rows."""
    asked, answer = conversation(number)["messages"]
    return {"messages": [asked, {**answer, "content": f"{answer['content']} " * 90}]}


@pytest.fixture
def run(make_spec: Callable[..., RunSpec], new_run: Callable[..., Path], tmp_path: Path) -> Path:
    """A run whose length limit comes from its training rows, and of whose held-out rows two are longer."""
    rows = write_rows(tmp_path / "rows.jsonl", [conversation(i) for i in range(12)])
    held = [*map(lengthy, range(LONG)), *(conversation(20 + i) for i in range(SHORT))]
    more = {"max_length_tokens": "auto", "eval_path": str(write_rows(tmp_path / "held.jsonl", held))}
    folder = new_run(make_spec(rows, peft=LORA, train={"max_steps": 1}, **more), "run")
    train(folder)
    return folder


def measured(run: Path) -> int:
    encoder = make_encoder(ModelSettings(name_or_path=str(run)))
    return len(requested({"model": str(run), "data": None}, encoder, ("messages",), "perplexity").examples)


def compared(run: Path) -> int:
    return len(rows_of(str(run), make_encoder(ModelSettings(name_or_path=str(run))), 100).rows)


def replayed(run: Path) -> int:
    return len(Replay({"run": str(run), "rows": 100, "max_new_tokens": 1}).examples)


def evaluated(run: Path) -> int:
    return int(evaluate({"run": str(run), "data": None, "rows": None})["rows"])


WAYS: Sequence[NumberOf] = (measured, compared, replayed)


def with_overflow(run: Path, overflow: str) -> None:
    spec = RunSpec.load(run / rundir.SPEC)
    spec = replace(spec, data=replace(spec.data, overflow=overflow))
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")


def test_rows_that_are_too_long_are_left_out_and_named_alike(run: Path, capfd: pytest.CaptureFixture[str]):
    with_overflow(run, "drop")
    capfd.readouterr()
    assert evaluated(run) == SHORT
    for way in WAYS:
        capfd.readouterr()
        assert way(run) == SHORT, way
        told = "2 of 8 held-out rows left out: longer than data.max_length_tokens (64)\n"
        assert capfd.readouterr().err.count(told) == 1, way


def test_rows_that_are_too_long_are_the_same_error_everywhere(run: Path):
    with_overflow(run, "error")
    for way in (measured, replayed):
        with pytest.raises(DataError, match=r"held\.jsonl:1.*data\.max_length_tokens is 64") as error:
            way(run)
        assert len(error.value.problems) == LONG
    encoder = make_encoder(ModelSettings(name_or_path=str(run)))
    assert "data.max_length_tokens is 64" in rows_of(str(run), encoder, 100).why


def test_rows_that_are_cut_have_the_length_at_which_the_run_cuts_them(run: Path):
    with_overflow(run, "truncate_right")
    for way in WAYS:
        assert way(run) == SHORT + LONG, way
    encoder = make_encoder(ModelSettings(name_or_path=str(run)))
    assert requested({"model": str(run), "data": None}, encoder, ("messages",), "perplexity").limit == 64
    assert max(len(each.ids) for each in rows_of(str(run), encoder, 100).rows) == 64
