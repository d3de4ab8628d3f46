"""RUN/dropped.jsonl: as many lines for each reason as the row ledger counts, however the rows were read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.core.errors import DataError
from ftcli.data.dropped_rows import HELD_OUT, NOT_MIXED, TRUNCATED, DroppedRows, read
from ftcli.methods import get_method
from ftcli.runs import rundir
from ftcli.settings.groups import DataSettings
from ftcli.worker.tokenise.dataset import prepare
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.length_limits import Fitting
from ftcli.worker.training.run import train
from tests.worker.conftest import conversation, write_rows

BAD = {"messages": [{"role": "user", "content": "and?"}]}


def said(asked, answer):
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def rows(tmp_path):
    """30 bad rows among 20 good ones, two of which are long."""
    long = [said("Say it", "word " * 90), said("Again", "word " * 80)]
    return write_rows(tmp_path / "rows.jsonl", [*(conversation(i) for i in range(18)), *long, *[BAD] * 30])


def dropped(tokenizer, tmp_path, path=None, *, limit=64, method="sft", seed=0, **data):
    """The ledger and the lines of the file, for a run on these rows."""
    settings = DataSettings(**{"path": str(path) if path else None, "max_bad_share": 0.9, **data})
    file = tmp_path / "dropped.jsonl"
    fit = Fitting(limit, data.get("overflow", "drop"), position_limit=256)
    found = prepare(settings, get_method(method), Encoder(tokenizer), fit, seed=seed, dropped=DroppedRows(file))
    if settings.streaming:
        for _ in zip(range(40), found.train, strict=False):
            pass
    return found.ledger(), list(read(file))


def counts(lines, side="train"):
    return Counter(line["reason"] for line in lines if line["side"] == side)


@pytest.mark.parametrize("overflow", ["drop", "truncate_right", "truncate_left", "split"])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_each_reason_of_the_ledger_has_its_lines(overflow, share, tokenizer, tmp_path, rows):
    ledger, lines = dropped(tokenizer, tmp_path, rows, overflow=overflow, eval_share=share)
    for side in ("train", "eval"):
        own = ledger[side] or {"dropped": {}, "truncated": 0, "rows_held_out": 0}
        expected = Counter(own["dropped"])
        expected[TRUNCATED] += own["truncated"]
        expected[HELD_OUT] += own["rows_held_out"]
        assert counts(lines, side) == +expected
    assert counts(lines)["unusable"] == 30  # all of them, where the ledger shows 20
    assert {line["where"] for line in lines if line["reason"] == "unusable"} == {f"{rows}:{n}" for n in range(21, 51)}


def test_a_line_names_place_field_and_fault(tokenizer, tmp_path, rows):
    ledger, lines = dropped(tokenizer, tmp_path, rows)
    first = next(line for line in lines if line["reason"] == "unusable")
    shown = ledger["train"]["errors"][0]
    assert {key: first[key] for key in ("where", "field", "what")} == {k: shown[k] for k in ("where", "field", "what")}
    [long, _] = [line for line in lines if "longer" in line["reason"]]
    assert (long["set"], long["where"]) == ("data", f"{rows}:19")
    assert long["what"].endswith("tokens long; data.max_length_tokens is 64")


def test_tokens_out_of_the_store_come_with_the_same_lines(tokenizer, tmp_path, rows):
    first, second = (dropped(tokenizer, tmp_path, rows, eval_share=0.2) for _ in range(2))
    assert first == second


def test_rows_that_the_mix_leaves_out_and_held_out_rows_beyond_the_most_are_named(tokenizer, tmp_path):
    one = write_rows(tmp_path / "one.jsonl", [conversation(i) for i in range(12)])
    two = write_rows(tmp_path / "two.jsonl", [conversation(i) for i in range(50, 60)])
    mix = {"one": {"path": str(one), "rows": 5}, "two": {"path": str(two), "repeat": 2}}
    ledger, lines = dropped(tokenizer, tmp_path, mix=mix, eval_share=0.4, max_eval_rows=2)
    left = [line for line in lines if line["reason"] == NOT_MIXED]
    kept = {each["name"]: each["rows_kept"] for each in ledger["train"]["sets"]}
    assert {line["set"] for line in left} == {"one"}
    assert len(left) == kept["one"] - 5
    assert counts(lines, "eval") == ledger["eval"]["dropped"] == {"beyond data.max_eval_rows": 9 - 2}  # 0.4 of 22


def test_a_stream_writes_the_rows_of_its_first_pass_once(tokenizer, tmp_path, rows):
    # 18 short rows: 40 are more than two passes
    ledger, lines = dropped(tokenizer, tmp_path, rows, streaming=True)
    assert counts(lines) == ledger["train"]["dropped"]
    assert counts(lines)["unusable"] == 30


def test_a_run_that_is_refused_for_its_bad_rows_leaves_all_of_them(tokenizer, tmp_path, rows):
    with pytest.raises(DataError, match="30 of 50 rows"):
        dropped(tokenizer, tmp_path, rows, max_bad_share=0.0)
    assert len(list(read(tmp_path / "dropped.jsonl"))) == 30


def test_the_command_prints_filters_and_refuses(make_spec, new_run, rows, capsys):
    run = new_run(make_spec(rows, train={"max_steps": 1}, max_bad_share=0.9, max_length_tokens=64), "run")
    train(run)
    capsys.readouterr()
    assert main(["data", "dropped", str(run)]) == 0
    found = capsys.readouterr()
    assert len(found.out.splitlines()) == 32
    assert "30 unusable, 2 longer than data.max_length_tokens" in found.err
    assert main(["data", "dropped", str(run), "--json", "--reason", "longer"]) == 0
    assert [json.loads(line)["where"] for line in capsys.readouterr().out.splitlines()] == [
        f"{rows}:19", f"{rows}:20"]  # fmt: skip
    assert main(["data", "dropped", str(run), "--reason", "nonsense"]) == 2
    assert "its reasons are: unusable, longer than" in capsys.readouterr().err
    Path(run, rundir.DROPPED).unlink()
    assert main(["data", "dropped", str(run)]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["data", "dropped"]) == 2


def test_a_fixed_split_seed_holds_out_the_same_rows_under_every_seed(tokenizer, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [conversation(i) for i in range(30)])

    def held(seed, **data):
        _, lines = dropped(tokenizer, tmp_path, path, seed=seed, eval_share=0.2, **data)
        return [line["where"] for line in lines if line["reason"] == HELD_OUT]

    assert held(1, split_seed=7) == held(2, split_seed=7) == held(7)
    assert held(1) != held(2)
    assert held(1, split_seed=7) != held(1, split_seed=8)
