"""Rows held out: groups whole, leaks and duplicates told with both places; and lengths that a run works out itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import DataError
from ftcli.plan.outlook import plan
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import rundir
from ftcli.worker.commands.data import inspect
from ftcli.worker.commands.eval import evaluate
from ftcli.worker.training.run import train
from tests.worker.conftest import conversation, pair_of_answers, word, write_rows
from tests.worker.tokenise.test_token_sets import prepared, texts


def spoken(asked: str, said: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}], **more}


def leaks(ledger: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["where"], each["what"]) for each in ledger["findings"].get("leak", {"first": []})["first"]]


# --- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_group_is_never_on_both_sides_not_even_across_sets(tokenizer, tmp_path, seed):
    def rows(name: str) -> list[dict[str, Any]]:
        return [spoken(f"{name} {i}?", f"user{i % 7}", user=f"u{i % 7}") for i in range(30)]

    paths = {name: str(write_rows(tmp_path / f"{name}.jsonl", rows(name))) for name in ("one", "two")}
    mixed = {name: {"path": path} for name, path in paths.items()}
    found = prepared(tokenizer, mix=mixed, eval_share=0.3, eval_group="user", seed=seed)

    def users(side: Any) -> set[str]:
        return {user for text in texts(side, tokenizer) for user in (f"user{i}" for i in range(7)) if user in text}

    assert users(found.train).isdisjoint(users(found.held_out))
    assert users(found.train) | users(found.held_out) == {f"user{i}" for i in range(7)}
    # Groups have 10, 10, 8, … rows of 60; 18 are asked for, and whole groups come to it from below.
    assert 8 <= len(found.held_out) <= 18


def test_one_group_alone_cannot_be_held_out_and_says_so(tokenizer, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [spoken(f"{i}?", "yes", user="u") for i in range(5)])
    with pytest.raises(DataError, match=r"data\.eval_share=0\.5  holds out no row: all rows belong to one group"):
        prepared(tokenizer, path, eval_share=0.5, eval_group="user")


# --- rows on both sides -----------------------------------------------------------------------------------------------


def test_leaks_are_told_with_both_places(tokenizer, tmp_path):
    trained = write_rows(tmp_path / "train.jsonl", [conversation(0), spoken("Why?", "So."), conversation(2)])
    held = write_rows(tmp_path / "held.jsonl", [spoken("Why?", "Because."), conversation(5), conversation(2)])
    found = prepared(tokenizer, trained, eval_path=str(held))
    ledger = found.ledger()["eval"]
    assert leaks(ledger) == [
        (f"{held}:3", f"the same row is trained on: {trained}:3"),
        (f"{held}:1", f"the same prompt is trained on: {trained}:2"),
    ]
    assert ledger["findings"]["leak"]["rows"] == 2
    assert ledger["rows_kept"] == 3  # told, and kept


def test_a_row_that_occurs_twice_leaks_when_its_halves_are_parted(tokenizer, tmp_path):
    rows = [spoken(f"{i}?", "yes") for i in range(10)]
    path = write_rows(tmp_path / "rows.jsonl", rows * 2)
    found = prepared(tokenizer, path, eval_share=0.5)
    held, kept = texts(found.held_out, tokenizer), texts(found.train, tokenizer)
    expected = sum(text in kept for text in held)
    assert expected > 0
    assert found.ledger()["eval"]["findings"]["leak"]["rows"] == expected
    for where, what in leaks(found.ledger()["eval"]):
        # each row stands ten lines from its twin
        other = int(what.rpartition(":")[2])
        assert abs(int(where.rpartition(":")[2]) - other) == 10


def test_many_leaks_are_counted_and_twenty_shown(tokenizer, tmp_path):
    rows = [spoken(f"{i}?", "yes") for i in range(50)]
    paths = [str(write_rows(tmp_path / f"{name}.jsonl", rows)) for name in ("train", "held")]
    found = prepared(tokenizer, Path(paths[0]), eval_path=paths[1]).ledger()["eval"]["findings"]["leak"]
    assert (found["rows"], len(found["first"])) == (50, 20)


def test_what_is_in_no_side_twice_is_no_leak(tokenizer, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [spoken(f"{i}?", "yes") for i in range(20)])
    assert "leak" not in prepared(tokenizer, path, eval_share=0.5).ledger()["eval"]["findings"]


def test_duplicates_across_sets_are_told_in_the_later_set_with_both_places(tokenizer, tmp_path):
    one = write_rows(tmp_path / "one.jsonl", [conversation(0), conversation(1)])
    twice = [conversation(1), conversation(3), conversation(1)]
    two = write_rows(tmp_path / "two.jsonl", twice)
    found = prepared(tokenizer, mix={"one": {"path": str(one)}, "two": {"path": str(two)}})
    first, second = (ledger["findings"] for ledger in found.ledger()["train"]["sets"])
    assert "duplicate" not in first
    assert [(each["where"], each["what"]) for each in second["duplicate"]["first"]] == [
        (f"{two}:3", f"is the same as {two}:1"),
        (f"{two}:1", f"is the same as {one}:2 of one"),
    ]


# --- lengths that are worked out --------------------------------------------------------------------------------------


def files(tmp_path: Path) -> dict[str, tuple[str, Path]]:
    """Method and file by name: short rows, rows with one far outlier, text, pairs of answers."""
    long = [conversation(i) for i in range(199)] + [spoken("Say.", "red " * 400)]
    text = [{"text": f"The {word(i)} {i}. " * 20} for i in range(50)]
    return {
        "short": ("sft", write_rows(tmp_path / "short.jsonl", [conversation(i) for i in range(50)])),
        "outlier": ("sft", write_rows(tmp_path / "outlier.jsonl", long)),
        "pretrain": ("pretrain", write_rows(tmp_path / "text.jsonl", text)),
        "pairs": ("dpo", write_rows(tmp_path / "pairs.jsonl", [pair_of_answers(i) for i in range(20)])),
        "plain pairs": (
            "dpo",
            write_rows(
                tmp_path / "plain.jsonl", [{"prompt": f"{i}: ", "chosen": "a b", "rejected": "c"} for i in "ab"]
            ),
        ),
    }


@pytest.mark.parametrize("name", ["short", "outlier", "pretrain", "pairs", "plain pairs"])
@pytest.mark.parametrize("share", [0, 0.2])
def test_plan_and_run_work_out_the_same_length_for_the_same_reason(tmp_path, name, share):
    method, path = files(tmp_path)[name]
    more = [f"data.eval_share={share}"] if share and name != "plain pairs" else []
    spec = spec_of(Request(overrides=(f"method={method}", f"data.path={path}", *more)))
    [planned] = [note for note in plan(ResolvedRun.of(spec)).notes if note["key"] == "data.max_length_tokens"]
    found = inspect({"spec": spec.to_json(), "trust_remote_code": False})
    assert found["max_length_tokens"] == {"value": planned["value"], "why": planned["why"]}
    if not more and method != "pretrain":
        assert plan(ResolvedRun.of(spec)).tokens_per_epoch == found["train"]["tokens"]


def test_one_far_outlier_is_dropped_and_told_not_paid_for(tmp_path):
    _, path = files(tmp_path)["outlier"]
    spec = spec_of(Request(overrides=(f"data.path={path}",)))
    found = inspect({"spec": spec.to_json(), "trust_remote_code": False})
    assert found["max_length_tokens"]["why"].startswith("holds 99 % of the rows")
    assert found["train"]["dropped"] == {"longer than data.max_length_tokens": 1}
    assert [each["where"] for each in found["train"]["findings"]["overflow"]["first"]] == [f"{path}:200"]


def test_eval_holds_its_rows_to_the_length_that_the_run_worked_out(make_spec, new_run, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [conversation(i) for i in range(16)])
    longer = [conversation(20), spoken("Say.", "red " * 70)]
    run = new_run(make_spec(path, max_length_tokens="auto", eval_share=0.25, train={"max_steps": 1}), "run")
    train(run)
    length = json.loads((run / rundir.LEDGER).read_text(encoding="utf-8"))["max_length_tokens"]
    assert (length["value"], length["why"].startswith("holds all rows")) == (64, True)
    other = write_rows(tmp_path / "other.jsonl", longer)
    # By its own rows the file would work out 128 or more tokens, and keep both.
    assert evaluate({"run": str(run), "data": str(other), "rows": None})["rows"] == 1


# --- the same, written differently ------------------------------------------------------------------------------------


def test_a_held_out_row_is_a_leak_in_its_closest_form(tokenizer, tmp_path):
    paths = [tmp_path / "rows.jsonl", tmp_path / "held.jsonl"]
    write_rows(paths[0], [spoken("Who is it?", "Me."), spoken("Why?", "Because."), spoken("When?", "Now.")])
    write_rows(paths[1], [
        spoken("Who is it?", "Me."),  # the row itself
        spoken("Who is it?", "You."),  # its prompt
        spoken("why", "because"),  # the row, written differently
        spoken("WHEN", "Never."),  # its prompt, written differently
        spoken("Where?", "Here."),
    ])  # fmt: skip
    found = prepared(tokenizer, paths[0], eval_path=str(paths[1])).ledger()["eval"]["findings"]
    told = {kind: [(each["where"].rpartition(":")[2], each["what"].split(": ")[0]) for each in found[kind]["first"]]
            for kind in ("leak", "normalised leak")}  # fmt: skip
    assert told == {
        "leak": [("1", "the same row is trained on"), ("2", "the same prompt is trained on")],
        "normalised leak": [("3", "a row that is written a little differently is trained on"),
                            ("4", "a prompt that is written a little differently is trained on")],
    }  # fmt: skip
    assert found["normalised leak"]["rows"] == 2


def test_a_row_of_another_set_that_is_written_differently_is_reported_there(tokenizer, tmp_path):
    for name, rows in (("one", [spoken("Who?", "Me.")]), ("two", [spoken("who", "ME"), spoken("Who?", "Me.")])):
        write_rows(tmp_path / f"{name}.jsonl", rows)
    mix = {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in ("one", "two")}
    _, second = prepared(tokenizer, mix=mix).ledger()["train"]["sets"]
    told = {kind: [each["where"].rpartition(":")[2] for each in found["first"]]
            for kind, found in second["findings"].items()}  # fmt: skip
    assert told["duplicate"] == ["2"]
    assert told["normalised duplicate"] == ["2", "1"]  # of its own set first, then of the earlier one
