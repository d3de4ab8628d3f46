"""Conversations whose template rewrites earlier turns: an example for each trained turn, and one row in every count."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ftcli.data.row_ledger import Ledger
from ftcli.methods import get_method
from ftcli.plan import tokens as plan_tokens
from ftcli.settings.groups import DataSettings, ModelSettings
from ftcli.worker.tokenise.dataset import Prepared, prepare
from ftcli.worker.tokenise.encoder import IGNORED, Encoder
from ftcli.worker.tokenise.length_limits import Fitting
from ftcli.worker.tokenise.truncation import apart, counted, laid_out, parts_of
from tests.worker.conftest import word, write_rows
from tests.worker.served import TEMPLATES, needs_parts, plain_ids, rendered, shipped

Turns = list[dict[str, Any]]
END = "<|im_end|>"


def talk(number: int, turns: int = 3, **more: Any) -> dict[str, Any]:
    """A conversation of so many exchanges, each answer with reasoning of its own."""
    said: Turns = []
    for turn in range(turns):
        said.append({"role": "user", "content": f"{word(number)} {turn}?"})
        answer = f"{word(number)}{turn}."
        said.append({"role": "assistant", "content": answer, "reasoning_content": f"Why {number} {turn}"})
    return {"messages": said, **more}


def ready(path: Path | None, name: str = "qwen3", limit: int = 400, training: bool = True, **data: Any) -> Prepared:
    packing, overflow = data.pop("packing", None), data.get("overflow", "drop")
    settings = DataSettings(path=str(path) if path else None, **data)
    fit = Fitting(limit, overflow, position_limit=4096, packing=packing)
    return prepare(settings, get_method("sft"), Encoder(shipped(name).tokenizer), fit, seed=0, training=training)


def trained(row: dict[str, Any], name: str = "qwen3") -> str:
    return shipped(name).tokenizer.decode([label for label in row["labels"] if label != IGNORED])


def test_each_turn_of_a_rewritten_conversation_is_an_example_of_what_is_served_at_that_point(tmp_path):
    row = talk(1)
    found = ready(write_rows(tmp_path / "rows.jsonl", [row]))
    turns, encoder = row["messages"], shipped("qwen3")
    assert len(found.train) == 3
    for example, index in zip(found.train, (1, 3, 5), strict=True):
        prompt = plain_ids(encoder, rendered(encoder, turns[:index], None, True))
        first = next(i for i, label in enumerate(example["labels"]) if label != IGNORED)
        assert example["input_ids"][:first] == prompt
        said = f"<think>\n{turns[index]['reasoning_content']}\n</think>\n\n{turns[index]['content']}{END}"
        assert trained(example) == said
    # Today's rule would have trained the last of these alone.
    assert sum(label != IGNORED for label in found.train[2]["labels"]) < found.ledger()["train"]["trained_tokens"] / 2


def test_the_ledger_says_how_many_examples_and_how_many_tokens_more(tmp_path):
    rows = [talk(i) for i in range(4)] + [talk(9, turns=1)]
    found = ready(write_rows(tmp_path / "rows.jsonl", rows))
    ledger, lengths = found.ledger()["train"], [len(ids) for ids in found.train["input_ids"]]
    assert (ledger["rows_read"], ledger["rows_kept"], ledger["sequences"]) == (5, 5, 13)
    assert (ledger["unrolled"], ledger["unrolled_examples"]) == (4, 12)
    assert ledger["tokens"] == sum(lengths)
    # Beyond the last example of each conversation, which holds all of it.
    assert ledger["repeated_tokens"] == sum(sum(lengths[i : i + 2]) for i in range(0, 12, 3))
    assert ready(tmp_path / "rows.jsonl").ledger()["train"] == ledger  # out of the store


def test_all_examples_of_a_conversation_lie_on_one_side_and_count_as_one_row(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [talk(i, turns=2) for i in range(20)])
    found = ready(path, eval_share=0.25)
    sides = [{trained(row).split("Why ")[1].split()[0] for row in side} for side in (found.train, found.held_out)]
    assert (len(sides[0]), len(sides[1])) == (15, 5)
    assert sides[0].isdisjoint(sides[1])
    assert (len(found.train), len(found.held_out)) == (30, 10)
    assert ready(path, max_rows=7).ledger()["train"]["rows_kept"] == 7
    assert len(ready(path, max_rows=7).train) == 14


def test_a_mix_takes_whole_conversations(tmp_path):
    paths = {name: write_rows(tmp_path / f"{name}.jsonl", [talk(i + start) for i in range(10)])
             for name, start in (("one", 0), ("two", 50))}  # fmt: skip
    mix = {"one": {"path": str(paths["one"]), "rows": 4}, "two": {"path": str(paths["two"])}}
    found = ready(None, mix=mix)
    ledger = found.ledger()["train"]
    assert (ledger["rows_mixed"], ledger["unrolled"], len(found.train)) == (14, 14, 42)
    only = ready(None, mix={"one": {"path": str(paths["one"]), "trained_turns": "last"}, "two": mix["two"]})
    assert (only.ledger()["train"]["unrolled"], len(only.train)) == (10, 40)


@pytest.mark.parametrize("packing", ["bfd", "wrapped"])
def test_packing_and_streaming_train_the_same_examples(tmp_path, packing):
    path = write_rows(tmp_path / "rows.jsonl", [talk(i) for i in range(6)])
    plain = ready(path)
    packed = ready(path, packing=packing)
    assert sum(map(len, packed.train["input_ids"])) == sum(map(len, plain.train["input_ids"]))
    assert sum(map(len, packed.train["seq_lengths"])) >= 18
    stream = ready(path, streaming=True, shuffle_buffer_rows=1)
    first = list(islice(stream.train, 18))
    assert [row["input_ids"] for row in first] == [row["input_ids"] for row in plain.train]
    assert "examples" not in first[0]
    ledger = stream.ledger()["train"]
    assert (ledger["unrolled"], ledger["unrolled_examples"]) == (6, 18)


def test_rows_that_are_not_unrolled_go_on_from_the_store_as_they_are(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [talk(1), *(talk(i, turns=1) for i in range(2, 6))])
    found = ready(path, limit=len(ready(path).train[2]["input_ids"]) - 1)  # the conversation is too long
    assert (len(found.train), set(found.train.column_names)) == (4, {"input_ids", "labels"})


def test_a_turns_weight_and_a_rows_weight_stay_with_its_example(tmp_path):
    row = talk(1, weight=3)
    row["messages"][1]["weight"] = 0.5
    row["messages"][3]["weight"] = 0
    found = ready(write_rows(tmp_path / "rows.jsonl", [row]))
    assert [trained(each).count("Why") for each in found.train] == [1, 1]  # turn 2 is read and not trained
    weights = [
        {weight for weight, label in zip(each["weights"], each["labels"], strict=True) if label != IGNORED}
        for each in found.train
    ]
    assert weights == [{1.5}, {3.0}]  # 0.5 * 3 and 1 * 3


def test_an_overlong_example_is_cut_for_itself(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [talk(1)])
    lengths = [len(ids) for ids in ready(path).train["input_ids"]]
    limit = lengths[1]
    assert ready(path, limit=limit, overflow="truncate_left").ledger()["train"]["truncated"] == 1
    cut = ready(path, limit=limit, overflow="truncate_left").train
    assert [len(ids) for ids in cut["input_ids"]] == [lengths[0], lengths[1], limit]
    right = ready(path, limit=limit, overflow="truncate_right")
    assert [len(ids) for ids in right.train["input_ids"]] == [*lengths[:2], limit]
    assert (right.ledger()["train"]["truncated"], right.ledger()["train"]["lost_end"]) == (1, 1)
    split = ready(path, limit=limit, overflow="split").train
    assert [len(ids) for ids in split["input_ids"]][:2] == lengths[:2]


def test_unroll_makes_each_turn_an_example_under_every_template(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [talk(1)])
    for turn in (rows := [talk(1)])[0]["messages"]:
        turn.pop("reasoning_content", None)
    path = write_rows(tmp_path / "plain.jsonl", rows)
    whole, each = (ready(path, "qwen2_5", trained_turns=turns) for turns in ("all", "unroll"))
    assert (len(whole.train), len(each.train)) == (1, 3)
    answers = [f"{word(1)}{turn}.{END}" for turn in range(3)]
    assert trained(whole.train[0], "qwen2_5") == "".join(answers)
    assert [trained(row, "qwen2_5") for row in each.train] == answers
    assert each.ledger()["train"]["trained_tokens"] == whole.ledger()["train"]["trained_tokens"]


def test_laying_out_and_taking_apart_are_inverse_and_cut_apart():
    # Examples of 3 and 5 tokens, of which 1 and 2 are trained.
    one = {"input_ids": [1, 2, 3], "labels": [IGNORED, IGNORED, 3]}
    two = {
        "input_ids": [1, 2, 3, 4, 5],
        "labels": [IGNORED, IGNORED, IGNORED, 4, 5],
        "weights": [1.0, 1.0, 1.0, 0.5, 0.5],
    }
    row = laid_out([one, two])
    assert row["examples"] == [3, 5]
    assert apart(row) == [{**one, "weights": [1.0] * 3}, two]
    assert counted(row) == (5, 8, 3)
    assert [part["input_ids"] for part in parts_of(row, 4, "truncate_left")] == [[1, 2, 3], [2, 3, 4, 5]]
    assert [part["input_ids"] for part in parts_of(row, 4, "truncate_right")] == [[1, 2, 3], [1, 2, 3, 4]]
    assert laid_out([one]) is one


def folder_of(name: str, folder: Path) -> Path:
    """The tokenizer of a shipped template as a model's folder, with its end tokens."""
    encoder = shipped(name)
    encoder.tokenizer.save_pretrained(folder)
    ends = {"eos_token_id": sorted(encoder.stop_ids)}
    (folder / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not needs_parts(name)])
@pytest.mark.parametrize("unroll", [False, True])
def test_the_plan_counts_the_tokens_and_examples_that_the_worker_trains(tmp_path, name, unroll):
    rows = [talk(i, turns=i % 3 + 1) for i in range(5)]
    if not shipped(name).serving.structure.marker:  # the template writes no reasoning
        for turn in (turn for row in rows for turn in row["messages"]):
            turn.pop("reasoning_content", None)
    data = DataSettings(
        path=str(write_rows(tmp_path / "rows.jsonl", rows)),
        max_length_tokens=4000,
        trained_turns="unroll" if unroll else "all",
    )
    fit = Fitting(4000, "drop", position_limit=4096)
    encoder = Encoder(shipped(name).tokenizer, shipped(name).stop_ids)
    found = prepare(data, get_method("sft"), encoder, fit, seed=0).ledger()["train"]
    model = ModelSettings(name_or_path=str(tmp_path / "model"))
    counted = plan_tokens.count(data, get_method("sft"), model, folder_of(name, tmp_path / "model"))
    assert (counted.tokens, counted.pieces, counted.exact) == (found["tokens"], found["sequences"], True)
    for each in ("unrolled", "unrolled_examples", "repeated_tokens"):
        assert getattr(counted, each) == found[each]


def test_ledgers_of_unrolled_rows_come_back_whole_and_add_up():
    ledger = Ledger("one", "a.jsonl")
    ledger.unroll(2, 6, 100, 60)
    found = ledger.to_dict()
    assert [found[name] for name in ("unrolled", "unrolled_examples", "repeated_tokens")] == [2, 6, 40]
