"""KTO: labels and pairs as one batch, weights from the data's own counts, rows that are shuffled."""

from __future__ import annotations

import pytest
from torch.utils.data import RandomSampler

from ftcli.worker.trainers.preference.kto import JudgedRows, weights
from ftcli.worker.training.run import train
from tests.worker.conftest import conversation, pair_of_answers, write_rows


@pytest.mark.parametrize(
    ("good", "bad", "given", "expected"),
    [
        (100, 100, (None, None), (1.0, 1.0)),
        (900, 100, (None, None), (1.0, 9.0)),
        (100, 300, (None, None), (3.0, 1.0)),
        (900, 100, (0.5, None), (0.5, 4.5)),
        (900, 100, (None, 3.0), (1 / 3, 3.0)),
        (900, 100, (1.0, 1.0), (1.0, 1.0)),
        (10, 0, (None, None), (1.0, 1.0)),
    ],
)
def test_good_and_bad_answers_weigh_the_same_unless_told_otherwise(good, bad, given, expected):
    assert weights(good, bad, *given) == pytest.approx(expected)


def test_a_pair_is_two_sequences_and_each_kl_answer_is_anothers():
    rows = [
        {"prompt_ids": [5], "chosen_ids": [6, 2], "rejected_ids": [7, 2]},
        {"prompt_ids": [8], "chosen_ids": [9, 2], "rejected_ids": []},
        {"prompt_ids": [10], "chosen_ids": [], "rejected_ids": [11, 2]},
    ]
    batch = JudgedRows(pad_token_id=0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 2], [8, 9, 2], [5, 7, 2], [10, 11, 2]]
    assert batch["label"].tolist() == [True, True, False, False]
    assert batch["KL_input_ids"].tolist() == [[5, 11, 2], [8, 6, 2], [5, 9, 2], [10, 7, 2]]
    assert batch["completion_mask"].tolist() == [[0, 1, 1]] * 4


def labelled(index: int) -> dict[str, object]:
    turns = conversation(index)["messages"]
    return {"prompt": turns[:1], "completion": turns[1:], "label": index % 4 > 0}


KTO = {"name": "kto", "beta": 0.5}


def test_labels_train_with_balanced_weights_and_are_measured(make_spec, new_run, tmp_path, capsys):
    rows = write_rows(tmp_path / "labels.jsonl", [labelled(i) for i in range(12)])
    spec = make_spec(rows, method=KTO, run={"score_rows": 8}, eval_path=str(rows), train={"max_steps": 24})
    result = train(new_run(spec, "labels"))
    assert "labels  9 good, 3 bad; weights 1 and 3" in capsys.readouterr().err
    assert result["score"]["name"] == "label_accuracy"
    assert result["score"]["before"] == 0.5  # nothing has moved: all are ties
    assert result["score"]["after"] > 0.9
    assert result["ledger"]["train"]["rows_kept"] == 12


def test_weights_outside_the_papers_range_are_warned_of(make_spec, new_run, tmp_path, capsys):
    rows = write_rows(tmp_path / "labels.jsonl", [labelled(i) for i in range(8)])
    method = {**KTO, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    train(new_run(make_spec(rows, method=method, train={"max_steps": 1}), "odd"))
    assert "good answers weigh 3 times as much as bad ones; the paper's range is 1 to 1.33" in capsys.readouterr().err


def test_pairs_are_split_and_prefer_what_was_chosen(make_spec, new_run, tmp_path):
    rows = write_rows(tmp_path / "pairs.jsonl", [pair_of_answers(i) for i in range(24)])
    spec = make_spec(rows, method=KTO, run={"score_rows": 8}, eval_path=str(rows), train={"max_steps": 12})
    score = train(new_run(spec, "pairs"))["score"]
    assert (score["name"], score["rows"]) == ("preference_accuracy", 8)
    assert score["after"] > score["before"] or score["after"] == 1.0
    assert score["reward_accuracy"] > 0.9


def test_rows_are_shuffled_although_trl_wants_them_in_order(make_spec, new_run, tmp_path, monkeypatch):
    from ftcli.worker.training import run as training

    seen = []
    make = training.build_trainer

    def spied(run):
        trainer = make(run)
        seen.append(trainer._get_train_sampler())
        return trainer

    monkeypatch.setattr(training, "build_trainer", spied)
    rows = write_rows(tmp_path / "labels.jsonl", [labelled(i) for i in range(8)])
    train(new_run(make_spec(rows, method=KTO, train={"max_steps": 1}), "order"))
    assert [type(sampler) for sampler in seen] == [RandomSampler]
