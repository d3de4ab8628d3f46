"""KTO: labels and pairs as one batch, weights from the data's own counts, rows that are shuffled, and its reference
point."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import RandomSampler

from ftcli.worker.trainers.preference.kto import JudgedRows, weights
from ftcli.worker.trainers.preference.step_reference import answer_before
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer, train
from tests.ranks import steps
from tests.worker.conftest import conversation, pair_of_answers, write_rows
from tests.worker.conftest import weights as weights_of


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


# --- the reference point ----------------------------------------------------------------------------------------------


def test_an_answer_has_the_same_one_before_it_however_the_step_is_divided():
    labels = [True, False, True, True, False, True, False, False]
    answers = [[number] for number in range(8)]
    good, bad = ([each for each, label in zip(answers, labels, strict=True) if label is side] for side in (True, False))
    before = {each[0]: (good + bad)[number - 1] for number, each in enumerate(good + bad)}
    for processes, batches in ((1, 1), (1, 4), (2, 2), (4, 1), (2, 4), (8, 1)):
        rows = 8 // processes // batches
        parts = [
            [range(start := (index * processes + number) * rows, start + rows) for index in range(batches)]
            for number in range(processes)
        ]

        def last(part: range, side: bool) -> list[int] | None:
            return next((answers[row] for row in reversed(part) if labels[row] is side), None)

        ends = [[(last(part, True), last(part, False)) for part in own] for own in parts]
        for number, own in enumerate(parts):
            for index, part in enumerate(own):
                for side in (True, False):
                    first = next((row for row in part if labels[row] is side), None)
                    if first is not None:
                        assert answer_before(ends, index, number, side) == before[first], (processes, batches)


@pytest.mark.parametrize("source", ["labels", "pairs"])
def test_a_step_has_one_reference_point_however_it_is_accumulated(source, make_spec, new_run, tmp_path):
    rows = [(labelled if source == "labels" else pair_of_answers)(i) for i in range(24)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    runs, rising = [], {**KTO, "desirable_weight": 1.0, "undesirable_weight": 0.1}
    for batch in (8, 4, 2):
        how = {"max_steps": 3, "per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch}
        runs.append(new_run(make_spec(path, method=rising, train={**how, "optim": "sgd"}), f"of{batch}"))
        train(runs[-1])
    whole, *divided = [[(step["loss"], step["kl"]) for step in steps(run)] for run in runs]
    assert any(kl > 1e-4 for _, kl in whole), "nothing is shown by a point that stays at 0"
    for each in divided:
        assert each == [pytest.approx(step, abs=1e-5) for step in whole]
    for run in runs[1:]:
        for key, tensor in weights_of(runs[0]).items():
            torch.testing.assert_close(weights_of(run)[key], tensor, atol=1e-5, rtol=1e-5)


def test_the_loss_of_a_step_is_the_papers(make_spec, new_run, tmp_path):
    """Equation 7 of arXiv:2402.01306, v(x, y) = λ_D σ(β(r − ẑ)) or λ_U σ(β(ẑ − r)), loss λ − v, by plain logits."""
    path = write_rows(tmp_path / "rows.jsonl", [labelled(i) for i in range(8)])
    method = {**KTO, "desirable_weight": 1.0, "undesirable_weight": 2.0}
    spec = make_spec(path, method=method, train={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2})
    trainer = build_trainer(load(spec, new_run(spec, "run")))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    rows = [trainer.train_dataset[i] for i in range(8)]
    batches, _ = trainer.get_batch_samples(
        iter([trainer.data_collator(rows[:4]), trainer.data_collator(rows[4:])]), 2, "cpu"
    )
    trainer.model.train()
    losses = [trainer.compute_loss(trainer.model, dict(batch)).item() for batch in batches]

    def ratio(prompt: list[int], answer: list[int]) -> float:
        ids, found = torch.tensor([[*prompt, *answer]]), []
        for model in (trainer.model, trainer.ref_model):
            with torch.no_grad():
                log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            found.append(log_probs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item())
        return found[0] - found[1]

    good = [(row["prompt_ids"], row["chosen_ids"]) for row in rows if row["chosen_ids"]]
    bad = [(row["prompt_ids"], row["rejected_ids"]) for row in rows if row["rejected_ids"]]
    both: list[Any] = good + bad
    point = max(0.0, sum(ratio(prompt, both[i - 1][1]) for i, (prompt, _) in enumerate(both)) / 8)
    assert point > 0
    of_good = [1 - torch.sigmoid(torch.tensor(0.5 * (ratio(*each) - point))).item() for each in good]
    of_bad = [2 * (1 - torch.sigmoid(torch.tensor(0.5 * (point - ratio(*each)))).item()) for each in bad]
    assert sum(losses) / 2 == pytest.approx((sum(of_good) + sum(of_bad)) / 8, abs=1e-5)
