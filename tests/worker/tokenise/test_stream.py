"""Streams: the same rows in the same order on one process, on two and after a resume, counted as they are read."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from accelerate.data_loader import IterableDatasetShard

from ftcli.core.errors import DataError
from ftcli.data import row_sets
from ftcli.methods import get_method
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.runs.checkpoints import newest_valid
from ftcli.settings.groups import DataSettings
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.length_limits import Fitting
from ftcli.worker.tokenise.stream import Stream
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA, conversation, pair_of_answers, same_weights, word, write_rows


def text_rows(path: Path, name: str, count: int) -> Path:
    return write_rows(path / f"{name}.jsonl", [{"text": f"{name} {i} {word(i)}"} for i in range(count)])


@pytest.fixture
def stream(tokenizer: Any):
    """A stream of sft rows."""

    def make(path: Path | None, *, fit: Fitting | None = None, seed: int = 0, **data: Any) -> Stream:
        settings = DataSettings(path=str(path) if path else None, streaming=True, **data)
        method, fit = get_method("sft"), fit or Fitting(64, "drop")
        sets = row_sets.train_sets(settings, method)
        return Stream(sets, settings, method, Encoder(tokenizer), fit, seed)

    return make


def first(stream: Stream, count: int) -> list[list[int]]:
    return [row["input_ids"] for row in islice(iter(stream.dataset()), count)]


def test_a_pass_holds_every_row_once_and_the_next_one_another_order(stream, tmp_path):
    made = stream(text_rows(tmp_path, "a", 40), shuffle_buffer_rows=8)
    rows = [tuple(row) for row in first(made, 80)]
    assert Counter(rows[:40]) == Counter(rows[40:])
    assert len(set(rows[:40])) == 40
    assert rows[:40] != rows[40:]


def test_a_buffer_of_one_keeps_the_order_of_the_file(stream, tmp_path, tokenizer):
    made = stream(text_rows(tmp_path, "a", 20), shuffle_buffer_rows=1)
    texts = tokenizer.batch_decode(first(made, 20), skip_special_tokens=True)
    assert [text.split()[1] for text in texts] == [str(i) for i in range(20)]


def test_the_seed_decides_the_order(stream, tmp_path):
    path = text_rows(tmp_path, "a", 30)
    assert first(stream(path, seed=1), 30) == first(stream(path, seed=1), 30)
    assert first(stream(path, seed=1), 30) != first(stream(path, seed=2), 30)


def test_iterating_again_begins_at_the_first_row_and_counts_anew(stream, tmp_path):
    made = stream(text_rows(tmp_path, "a", 10))
    assert first(made, 25) == first(made, 25)
    [ledger] = made.ledgers
    assert (ledger.rows_read, ledger.rows_kept) == (10, 10)


def test_two_processes_take_their_parts_of_the_batches_that_one_would_have(stream, tmp_path):
    made = stream(text_rows(tmp_path, "a", 50), shuffle_buffer_rows=16)
    whole = [row["input_ids"] for row in islice(iter(made.dataset()), 48)]
    # A global batch of 8 rows: 4 for each process, the first the first half.
    parts = []
    for index in (0, 1):
        shard = IterableDatasetShard(made.dataset(), batch_size=4, num_processes=2, process_index=index)
        parts.append([row["input_ids"] for row in islice(iter(shard), 24)])
    joined = [row for at in range(0, 24, 4) for part in parts for row in part[at : at + 4]]
    assert joined == whole


def test_every_beginning_of_a_mixed_stream_holds_the_shares(stream, tmp_path, tokenizer):
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    mix = {n: {"path": str(text_rows(tmp_path, n, 7)), "share_of_mix": share} for n, share in shares.items()}
    texts = tokenizer.batch_decode(first(stream(None, mix=mix), 100), skip_special_tokens=True)
    names = [text.split()[0] for text in texts]
    for length in range(1, 101):
        for name, share in shares.items():
            assert abs(names[:length].count(name) - share * length) <= 1


def test_a_mixed_stream_counts_each_set_apart(stream, tmp_path):
    mix = {n: {"path": str(text_rows(tmp_path, n, size)), "share_of_mix": 0.5} for n, size in (("a", 3), ("b", 50))}
    made = stream(None, mix=mix, shuffle_buffer_rows=1)
    first(made, 40)
    read = {ledger.name: ledger.rows_kept for ledger in made.ledgers}
    assert read["a"] == 3  # read seven times and counted once
    assert read["b"] >= 20


def test_a_bad_row_stops_the_stream_where_none_is_allowed(stream, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": 2}\n{"text": "three"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        first(stream(path), 3)
    made = stream(path, max_bad_share=0.5)
    assert len(first(made, 2)) == 2
    assert (made.ledgers[0].rows_read, made.ledgers[0].rows_bad) == (3, 1)


def test_a_stream_without_a_row_to_train_on_says_so(stream, tmp_path):
    with pytest.raises(DataError, match="no row that can be trained on"):
        first(stream(text_rows(tmp_path, "a", 5), fit=Fitting(2, "drop")), 1)


def test_long_rows_of_a_stream_are_counted_as_those_of_a_file(stream, tmp_path, tokenizer):
    rows = [{"text": "red " * n} for n in (3, 30, 4)]
    lengths = [len(tokenizer(row["text"] + tokenizer.eos_token)["input_ids"]) for row in rows]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    made = stream(path, fit=Fitting(12, "truncate_right"))
    cut = first(made, 3)
    [ledger] = made.ledgers
    assert max(map(len, cut)) == 12
    assert (ledger.truncated, ledger.lost_end, ledger.tokens) == (1, 1, lengths[0] + 12 + lengths[2])
    dropping = stream(path, fit=Fitting(12, "drop"))
    first(dropping, 2)
    assert dict(dropping.ledgers[0].dropped) == {"longer than data.max_length_tokens": 1}


def test_auto_length_is_worked_out_from_the_first_rows(stream, tmp_path):
    made = stream(text_rows(tmp_path, "a", 30), fit=Fitting(None, "drop", position_limit=8192))
    assert made.fit.limit == 64  # the longest has some ten tokens, and 64 is the step
    assert "holds all rows" in made.fit.why


def test_packed_blocks_of_a_stream_are_full_and_in_the_order_of_the_rows(stream, tmp_path):
    path = text_rows(tmp_path, "a", 40)
    loose = stream(path, shuffle_buffer_rows=1)
    whole = [token for row in first(loose, 40) for token in row]
    made = stream(path, fit=Fitting(16, "split", packing="wrapped"), shuffle_buffer_rows=1)
    blocks = first(made, len(whole) // 16)
    assert {len(block) for block in blocks} == {16}
    assert [token for block in blocks for token in block] == whole[: len(blocks) * 16]


@pytest.mark.parametrize("packing", [False, True], ids=["rows", "packed"])
def test_a_resumed_stream_ends_with_the_weights_of_the_uninterrupted_one(packing, tmp_path, make_spec, new_run):
    path = write_rows(tmp_path / "rows.jsonl", [conversation(i) for i in range(40)])
    method = {"name": "sft", "packing": packing, **({"packing_strategy": "wrapped"} if packing else {})}
    spec = make_spec(
        path,
        method=method,
        peft=LORA,
        streaming=True,
        shuffle_buffer_rows=8,
        max_length_tokens=32 if packing else 128,
        train={"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 3},
    )
    whole, stopped = new_run(spec, "whole"), new_run(spec, "stopped")
    result = train(whole)
    assert result["steps"] == 6
    assert result["ledger"]["train"]["rows_read"] > 0
    train(stopped)
    checkpoint = stopped / "checkpoints" / "checkpoint-4"
    for newer in (stopped / "checkpoints").glob("checkpoint-6"):
        newer.rename(tmp_path / "aside")
    found, damaged = newest_valid(stopped / "checkpoints", files_to_resume(spec))
    assert (found, damaged) == (checkpoint, [])
    train(stopped, resume=checkpoint)
    assert same_weights(whole, stopped)


def test_a_stream_validates_on_a_file_of_its_own(tmp_path, make_spec, new_run):
    path = write_rows(tmp_path / "rows.jsonl", [conversation(i) for i in range(12)])
    held = write_rows(tmp_path / "held.jsonl", [conversation(i) for i in range(20, 24)])
    spec = make_spec(path, streaming=True, eval_path=str(held), train={"max_steps": 2, "eval_strategy": "steps"})
    result = train(new_run(spec, "run"))
    assert result["eval_loss"]["after"] > 0
    assert result["ledger"]["eval"]["rows_kept"] == 4


def test_preferences_stream_too(tmp_path, make_spec, new_run):
    path = write_rows(tmp_path / "rows.jsonl", [pair_of_answers(i) for i in range(12)])
    spec = make_spec(path, method={"name": "dpo"}, peft=LORA, streaming=True, train={"max_steps": 3})
    result = train(new_run(spec, "run"))
    assert result["loss_first"] == pytest.approx(0.693147, abs=1e-5)
    assert result["ledger"]["train"]["format"] == "preference_messages"


def test_sets_that_are_kept_in_order_are_trained_in_order_and_resume_so(tmp_path, make_spec, new_run):
    # What data.mix_order=concatenate derives: see derive.derive_train.
    path = write_rows(tmp_path / "rows.jsonl", [conversation(i) for i in range(16)])
    order = {"train_sampling_strategy": "sequential", "save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    runs = [new_run(make_spec(path, peft=LORA, train=order), name) for name in ("whole", "stopped")]
    for run in runs:
        train(run)
    (runs[1] / "checkpoints" / "checkpoint-6").rename(tmp_path / "aside")
    train(runs[1], resume=runs[1] / "checkpoints" / "checkpoint-4")
    assert same_weights(*runs)
    shuffled = new_run(make_spec(path, peft=LORA, train={"max_steps": 6}), "shuffled")
    train(shuffled)
    assert not same_weights(runs[0], shuffled)
