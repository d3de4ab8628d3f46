"""What becomes of every row of a run: counted to the row under every setting, mixed, held out, and fitted."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.core.errors import DataError
from ftcli.methods import get_method
from ftcli.settings.groups import DataSettings
from ftcli.worker.__main__ import main
from ftcli.worker.tokenise.dataset import Prepared, prepare
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.length_limits import Fitting
from tests.faults import NUM_ROWS, as_planted, as_told, errors, plant
from tests.worker.conftest import conversation, pair_of_answers, word, write_rows

NEVER_USABLE = {"messages": [{"role": "user", "content": "and?"}]}


def prepared(tokenizer: Any, path: Path | None = None, method: str = "sft", seed: int = 0, **data: Any) -> Prepared:
    """The data of a run on one file, or on `mix`, within 64 tokens."""
    limit, training = data.pop("limit", 64), data.pop("training", True)
    settings = DataSettings(path=str(path) if path else None, **data)
    fit = Fitting(limit, data.get("overflow", "drop"), position_limit=256)
    return prepare(settings, get_method(method), Encoder(tokenizer), fit, seed=seed, training=training)


def texts(found: Any, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(ids) for ids in found["input_ids"][:]] if found is not None else []


def adds_up(ledger: dict[str, Any]) -> bool:
    kept = ledger["rows_kept"] + ledger["rows_held_out"] + sum(ledger["dropped"].values())
    return bool(ledger["rows_read"] == kept)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_runs_ledger_tells_every_planted_fault_and_nothing_else(tokenizer, tmp_path):
    planted = plant(tmp_path / "rows.jsonl")
    ledger = prepared(tokenizer, planted.path, max_bad_share=0.5).ledger()["train"]
    assert as_told(ledger) == as_planted(planted)
    assert ledger["dropped"] == {"unusable": len(errors())}
    assert (ledger["rows_read"], ledger["rows_kept"]) == (NUM_ROWS, NUM_ROWS - len(errors()))


def test_the_second_run_reads_the_same_ledger_out_of_the_store(tokenizer, tmp_path):
    planted = plant(tmp_path / "rows.jsonl")
    first, second = (prepared(tokenizer, planted.path, max_bad_share=0.5).ledger() for _ in range(2))
    assert first == second


def test_findings_never_stop_a_run(tokenizer, tmp_path):
    row = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I am {{name}}."}]}
    ledger = prepared(tokenizer, write_rows(tmp_path / "rows.jsonl", [row] * 3)).ledger()["train"]
    assert {kind: found["rows"] for kind, found in ledger["findings"].items()} == {"placeholder": 3, "duplicate": 2}
    assert ledger["rows_kept"] == 3


def test_thirty_bad_rows_are_counted_and_twenty_shown(tokenizer, tmp_path):
    rows = [conversation(i) for i in range(20)] + [NEVER_USABLE] * 30
    path = write_rows(tmp_path / "rows.jsonl", rows)
    ledger = prepared(tokenizer, path, max_bad_share=0.6).ledger()["train"]
    assert (ledger["dropped"]["unusable"], len(ledger["errors"])) == (30, 20)
    with pytest.raises(DataError) as caught:
        prepared(tokenizer, path, max_bad_share=0.59)
    assert len(caught.value.problems) == 21
    assert "30 of 50 rows are unusable, of which the first 20 are shown" in str(caught.value)


def test_bad_rows_stop_a_run_before_its_weights_are_looked_for(make_spec, new_run, tmp_path, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(tiny.MODEL_DIR, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    path = write_rows(tmp_path / "rows.jsonl", [conversation(0), NEVER_USABLE, conversation(1)])
    assert main(["train", str(new_run(make_spec(path, model=bare), "stops"))]) == 3
    told = capsys.readouterr().err
    assert f"{path}:2  messages has no assistant turn" in told
    assert "data.max_bad_share allows 0" in told
    # With the rows allowed, the weights are what is missing.
    assert main(["train", str(new_run(make_spec(path, model=bare, max_bad_share=0.5), "goes on"))]) == 2
    assert "model" in capsys.readouterr().err


# --- the sum ----------------------------------------------------------------------------------------------------------

# Of ten rows: three too long for 24 tokens (one of them held out or not, by seed), one unusable, one without an answer
# that fits.
LONG = {"messages": [{"role": "user", "content": "Say."}, {"role": "assistant", "content": "red tree " * 30}]}
ASKED_AT_LENGTH = {"messages": [{"role": "user", "content": "red tree " * 30}, {"role": "assistant", "content": "x"}]}


@pytest.mark.parametrize("held", [{}, {"eval_share": 0.3}])
@pytest.mark.parametrize("overflow", ["drop", "truncate_left", "truncate_right", "split"])
def test_rows_read_are_those_kept_held_out_and_dropped(tokenizer, tmp_path, overflow, held):
    rows = [*(conversation(i) for i in range(6)), LONG, LONG | {}, ASKED_AT_LENGTH, NEVER_USABLE]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    found = prepared(tokenizer, path, overflow=overflow, limit=40, max_bad_share=0.2, **held)
    ledger = found.ledger()
    train = ledger["train"]
    assert train["rows_read"] == 10
    assert adds_up(train)
    assert train["dropped"]["unusable"] == 1
    assert train["sequences"] == len(found.train)
    assert train["tokens"] == sum(map(len, found.train["input_ids"]))
    if held:
        assert adds_up(ledger["eval"])
        assert ledger["eval"]["rows_read"] == train["rows_held_out"] == 3  # 0.3 of nine usable rows is 2.7
    else:
        dropped = {"drop": 3, "truncate_left": 0, "truncate_right": 1, "split": 0}[overflow]
        assert sum(train["dropped"].values()) - 1 == dropped


def test_overlong_rows_are_refused_by_number_where_asked(tokenizer, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [conversation(0), *[LONG] * 25])
    with pytest.raises(DataError) as caught:
        prepared(tokenizer, path, overflow="error", limit=40)
    assert [problem.where for problem in caught.value.problems[:2]] == [f"{path}:2", f"{path}:3"]
    assert "and 5 more rows are too long" in str(caught.value)


def test_lost_end_tokens_are_counted_exactly(tokenizer, tmp_path):
    rows = [{"messages": [*conversation(1)["messages"][:1], {"role": "assistant", "content": "red " * n}]}
            for n in (1, 5, 9, 20, 30)]  # fmt: skip
    path = write_rows(tmp_path / "rows.jsonl", rows)
    whole = prepared(tokenizer, path, limit=200).train["input_ids"][:]
    ends = [len(ids) - 1 - ids[::-1].index(tokenizer.eos_token_id) for ids in whole]
    for limit in (len(whole[2]) - 1, len(whole[2]), ends[3], ends[3] + 1):
        ledger = prepared(tokenizer, path, overflow="truncate_right", limit=limit).ledger()["train"]
        assert ledger["truncated"] == sum(len(ids) > limit for ids in whole)
        assert ledger["lost_end"] == sum(end >= limit for end in ends), limit
    # What a template puts behind the end token may go without a loss.
    assert len(whole[2]) - 1 > ends[2]


def test_a_cut_on_the_left_loses_no_end(tokenizer, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [LONG, conversation(0)])
    found = prepared(tokenizer, path, overflow="truncate_left", limit=40)
    ledger = found.ledger()["train"]
    assert (ledger["truncated"], ledger["lost_end"]) == (1, 0)
    assert all(tokenizer.eos_token_id in ids for ids in found.train["input_ids"])


def test_validating_on_fewer_rows_counts_the_others(tokenizer, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [conversation(i) for i in range(20)])
    found = prepared(tokenizer, path, eval_share=0.5, max_eval_rows=4)
    held = found.ledger()["eval"]
    assert (held["rows_read"], held["rows_kept"], held["dropped"]) == (10, 4, {"beyond data.max_eval_rows": 6})
    assert len(found.held_out) == 4


# --- mixes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sets(tmp_path) -> dict[str, str]:
    """Three small files of different formats."""
    alpaca = [{"instruction": f"Add {i}.", "output": f"{i + 1}"} for i in range(30)]
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca), encoding="utf-8")
    write_rows(tmp_path / "talk.jsonl", [conversation(i) for i in range(12)])
    (tmp_path / "plain.txt").write_text("".join(f"The {word(i)} {i}.\n" for i in range(10)), encoding="utf-8")
    return {name: str(tmp_path / f"{name}.{end}") for name, end in
            (("alpaca", "json"), ("talk", "jsonl"), ("plain", "txt"))}  # fmt: skip


def kind_of(text: str) -> str:
    return "alpaca" if "Add" in text else "talk" if "Say" in text else "plain"


def test_sets_of_three_formats_make_one_run_with_a_ledger_each(tokenizer, sets):
    # All of talk and plain, 12 + 10, and alpaca up to a half of the whole: 22 more.
    mixed = {name: {"path": path} for name, path in sets.items()}
    mixed["alpaca"]["share_of_mix"] = 0.5
    found = prepared(tokenizer, mix=mixed)
    train = found.ledger()["train"]
    each = {ledger["name"]: ledger for ledger in train["sets"]}
    assert {name: ledger["format"] for name, ledger in each.items()} == {
        "alpaca": "alpaca", "talk": "messages", "plain": "text",
    }  # fmt: skip
    assert {name: (e["rows_read"], e["rows_mixed"]) for name, e in each.items()} == {
        "alpaca": (30, 22), "talk": (12, 12), "plain": (10, 10),
    }  # fmt: skip
    assert all(adds_up(ledger) for ledger in (train, *each.values()))
    assert train["rows_read"] == 52
    assert train["tokens"] == sum(e["tokens"] for e in each.values()) == sum(map(len, found.train["input_ids"]))
    kinds = [kind_of(text) for text in texts(found.train, tokenizer)]
    assert Counter(kinds) == {"alpaca": 22, "talk": 12, "plain": 10}
    for length in range(1, 45):
        assert abs(kinds[:length].count("alpaca") - length / 2) < 1


def test_a_concatenated_mix_keeps_one_set_behind_the_other(tokenizer, sets):
    mixed = {name: {"path": sets[name]} for name in ("plain", "talk")}
    kinds = [kind_of(text) for text in texts(prepared(tokenizer, mix=mixed, mix_order="concatenate").train, tokenizer)]
    assert kinds == ["plain"] * 10 + ["talk"] * 12


def test_repeated_rows_occur_as_often_as_they_should(tokenizer, sets):
    found = prepared(tokenizer, mix={"talk": {"path": sets["talk"], "repeat": 2.5}, "plain": {"path": sets["plain"]}})
    times = Counter(texts(found.train, tokenizer))
    assert Counter(number for text, number in times.items() if kind_of(text) == "talk") == {2: 6, 3: 6}  # 12 · 2.5
    assert found.ledger()["train"]["sets"][0]["rows_mixed"] == 30


def test_the_same_seed_draws_the_same_rows_also_beside_another_set(tokenizer, sets):
    def drawn(seed: int, **more: Any) -> list[str]:
        found = prepared(tokenizer, mix={"alpaca": {"path": sets["alpaca"], "rows": 8}, **more}, seed=seed)
        return [text for text in texts(found.train, tokenizer) if kind_of(text) == "alpaca"]

    assert drawn(1) == drawn(1, talk={"path": sets["talk"]})
    assert drawn(1) != drawn(2)
    assert len(drawn(1)) == 8


def test_a_set_that_has_too_few_usable_rows_is_told_with_the_remedy(tokenizer, sets):
    with pytest.raises(DataError, match=r"requests 24 rows of talk, which has 12.*\n.*data\.mix\.talk\.repeat=2"):
        prepared(tokenizer, mix={"talk": {"path": sets["talk"], "rows": 24}, "plain": {"path": sets["plain"]}})


def test_a_set_of_nothing_but_bad_rows_leaves_the_others(tokenizer, sets, tmp_path):
    bad = write_rows(tmp_path / "bad.jsonl", [NEVER_USABLE] * 3)
    mixed = {"bad": {"path": str(bad)}, "plain": {"path": sets["plain"]}}
    found = prepared(tokenizer, mix=mixed, max_bad_share=0.5)
    ledger = found.ledger()["train"]
    assert (len(found.train), ledger["rows_read"], ledger["dropped"]) == (10, 13, {"unusable": 3})
    assert adds_up(ledger)


def test_a_preference_mix_is_held_to_the_same_sum(tokenizer, tmp_path):
    one = write_rows(tmp_path / "one.jsonl", [pair_of_answers(i) for i in range(8)])
    plain = [{"prompt": f"Say {i}: ", "chosen": "yes", "rejected": "no"} for i in range(6)]
    two = write_rows(tmp_path / "two.jsonl", [*plain, {"prompt": "x", "chosen": "yes"}])
    mixed = {"one": {"path": str(one), "share_of_set": 0.5}, "two": {"path": str(two)}}
    found = prepared(tokenizer, mix=mixed, method="dpo", eval_share=0.2, max_bad_share=0.1)
    train = found.ledger()["train"]
    assert all(adds_up(ledger) for ledger in (train, *train["sets"]))
    assert train["rows_held_out"] == 3  # 0.2 of 14 is 2.8
    assert len(found.train) == sum(ledger["rows_mixed"] for ledger in train["sets"])
