"""The reward model's loss by hand: with a margin or a soft label out of the rows, and with scores kept around zero."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from ftcli.core.errors import DataError
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis.backend import Question, Reply
from ftcli.synthesis.synthesis_spec import FILE, SynthesisSpec
from ftcli.synthesis.tasks import Judge, JudgeSettings
from ftcli.worker.commands.synthesise import make
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer, train
from tests.synthesis.test_synthesis import JUDGED, Saying, go
from tests.worker.conftest import LORA, pair_of_answers, weights, write_rows

MARGINS = [0.5, 2.0, 0.0, 1.25]


def rows(margins: list[Any]) -> list[dict[str, Any]]:
    return [{**pair_of_answers(i), "gap": margin} for i, margin in enumerate(margins)]


def scores_and_loss(spec: Any, run_dir: Path) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Scores of the chosen and of the rejected answers of all rows, in order, and the loss of them as one batch."""
    trainer = build_trainer(load(spec, run_dir))
    trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(MARGINS))])
    with torch.no_grad():
        scores = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
        loss = trainer.compute_loss(trainer.model, batch).item()
    chosen, rejected = scores.chunk(2)
    return chosen, rejected, loss


@pytest.mark.parametrize("streaming", [False, True])
def test_the_chosen_answer_has_to_win_by_the_margin_of_its_row(streaming, make_spec, new_run, tmp_path):
    """−log σ(r(chosen) − r(rejected) − m): Touvron et al. 2023, arXiv:2307.09288, equation 2."""
    path = write_rows(tmp_path / "rows.jsonl", rows(MARGINS))
    spec = make_spec(path, method={"name": "reward"}, margin_column="gap")
    if streaming:  # trains on them as they come: that the margin gets there shows in the loss
        plain = make_spec(path, method={"name": "reward"}, streaming=True, shuffle_buffer_rows=1, seed=3)
        plain = replace(plain, train={**plain.train, "max_steps": 1, "gradient_checkpointing": False})
        with_margin = replace(plain, data=replace(plain.data, margin_column="gap"))
        first, other = (train(new_run(each, name))["train_loss"] for each, name in ((plain, "a"), (with_margin, "b")))
        assert other > first
        return
    chosen, rejected, loss = scores_and_loss(spec, new_run(spec, "run"))
    expected = -logsigmoid(chosen - rejected - torch.tensor(MARGINS)).mean()
    assert loss == pytest.approx(expected.item(), abs=1e-6)


def test_scores_are_kept_around_zero(make_spec, new_run, tmp_path):
    """c·(r(chosen) + r(rejected))² beside it: Eisenstein et al. 2023, arXiv:2312.09244, equation 2."""
    path = write_rows(tmp_path / "rows.jsonl", rows(MARGINS))
    spec = make_spec(path, method={"name": "reward", "center_rewards_coefficient": 0.3})
    chosen, rejected, loss = scores_and_loss(spec, new_run(spec, "run"))
    expected = -logsigmoid(chosen - rejected).mean() + 0.3 * ((chosen + rejected) ** 2).mean()
    assert loss == pytest.approx(expected.item(), abs=1e-6)


def test_a_margin_trains_through_an_adapter_and_a_cut_prompt(make_spec, new_run, tmp_path):
    found = [pair_of_answers(i) | {"gap": 1.0} for i in range(8)]
    found[0]["prompt"][0]["content"] = "Say red. " * 30
    path = write_rows(tmp_path / "rows.jsonl", found)
    spec = make_spec(
        path,
        method={"name": "reward"},
        peft=LORA,
        margin_column="gap",
        max_length_tokens=40,
        overflow="truncate_left",
    )
    result = train(new_run(spec, "run"))
    assert result["ledger"]["train"]["truncated"] == 1
    assert result["ledger"]["train"]["rows_kept"] == 8


@pytest.mark.parametrize(
    ("margin", "told"), [("wide", "not a number"), (None, "not a number"), ("absent", "no margin column")]
)
def test_a_row_without_its_margin_is_refused_by_its_line(margin, told, make_spec, new_run, tmp_path):
    found = rows([1.0, margin, 2.0])
    if margin == "absent":
        del found[1]["gap"]
    path = write_rows(tmp_path / "rows.jsonl", found)
    spec = make_spec(path, method={"name": "reward"}, margin_column="gap")
    with pytest.raises(DataError) as caught:
        load(spec, new_run(spec, "run"))
    problem = caught.value.problems[0]
    assert problem.where == f"{path}:2"
    assert told in problem.what


# --- soft labels ------------------------------------------------------------------------------------------------------

LABELS = [0.9, None, 0.5, 0.35]


def soft_rows(labels: list[Any]) -> list[dict[str, Any]]:
    return [{**pair_of_answers(i), "chosen_probability": label} for i, label in enumerate(labels)]


def test_a_pair_is_learned_by_the_cross_entropy_to_its_soft_label(make_spec, new_run, tmp_path, capsys):
    """−p log σ(d) − (1 − p) log(1 − σ(d)), d the scores' difference: Lee et al. 2023, arXiv:2309.00267, section 2.2."""
    path = write_rows(tmp_path / "rows.jsonl", soft_rows(LABELS))
    spec = make_spec(path, method={"name": "reward", "center_rewards_coefficient": 0.3})
    chosen, rejected, loss = scores_and_loss(spec, new_run(spec, "run"))
    sure = torch.sigmoid(chosen - rejected).tolist()
    terms = [-p * math.log(s) - (1 - p) * math.log(1 - s) for p, s in zip([0.9, 1.0, 0.5, 0.35], sure, strict=True)]
    expected = sum(terms) / 4 + 0.3 * ((chosen + rejected) ** 2).mean().item()
    assert loss == pytest.approx(expected, abs=1e-6)
    assert "labels  3 of 4 pairs are soft, 0.583 on average; others are certain" in capsys.readouterr().err


def test_a_soft_label_moves_the_scores_no_further_than_it_says(make_spec, new_run, tmp_path):
    # One pair over and over, better in 7 of 10 judgements: σ(d) ends at 0.7, and not at 1.
    path = write_rows(tmp_path / "rows.jsonl", soft_rows([0.7]) * 4)
    how = {"max_steps": 120, "learning_rate": 3e-3, "lr_scheduler_type": "linear"}
    spec = make_spec(path, method={"name": "reward"}, train=how)
    trainer = build_trainer(load(spec, new_run(spec, "run")))
    trainer.train()
    batch = trainer.data_collator([trainer.train_dataset[0]])
    trainer.model.eval()
    with torch.no_grad():
        scores = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    assert torch.sigmoid(scores[0] - scores[1]).item() == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("streaming", [False, True])
def test_soft_labels_reach_the_loss_of_a_step_with_weights_too(streaming, make_spec, new_run, tmp_path):
    # Labels of 1 train as none, and others do not.
    runs = []
    for name, label in (("none", None), ("one", 1.0), ("soft", 0.2)):
        path = write_rows(
            tmp_path / f"{name}.jsonl", [{**row, "weight": 2 + i} for i, row in enumerate(soft_rows([label] * 4))]
        )
        more = {"streaming": True, "shuffle_buffer_rows": 1} if streaming else {}
        runs.append(new_run(make_spec(path, method={"name": "reward"}, train={"max_steps": 2}, **more), name))
        train(runs[-1])
    none, one, soft = map(weights, runs)
    assert all(torch.equal(none[key], one[key]) for key in none)
    assert not all(torch.equal(none[key], soft[key]) for key in none)


@pytest.mark.parametrize("label", [1.5, -0.1, "likely", True])
def test_a_soft_label_that_is_no_probability_is_refused_by_its_line(label, make_spec, new_run, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", soft_rows([0.9, label, 0.8]))
    spec = make_spec(path, method={"name": "reward"})
    with pytest.raises(DataError) as caught:
        load(spec, new_run(spec, "run"))
    problem = caught.value.problems[0]
    assert problem.where == f"{path}:2"
    assert "not a probability" in problem.what


def test_a_pair_has_a_soft_label_or_a_margin_and_other_methods_read_neither(make_spec, new_run, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{**row, "gap": 1.0} for row in soft_rows([0.9, 0.8])])
    spec = make_spec(path, method={"name": "reward"}, margin_column="gap")
    with pytest.raises(DataError, match="the pair has a soft label, chosen_probability, and a margin, gap"):
        load(spec, new_run(spec, "run"))
    ledger = train(new_run(make_spec(path, method={"name": "dpo"}, train={"max_steps": 1}), "dpo"))["ledger"]["train"]
    assert ledger["unread"]["chosen_probability"] == 2
    assert not any("probability" in str(finding) for finding in ledger["findings"].values())


def test_the_rows_of_a_judge_train_with_its_probabilities(make_spec, new_run, tmp_path, capsys):
    def say(ask: Question) -> Reply:  # the polite answer is the better one at 4 to 1, in whichever order
        polite_first = ask.about[0].startswith("Gladly")
        return Reply(text="A" if polite_first else "B", choice_logps=(-0.2, -1.6) if polite_first else (-1.6, -0.2))

    items = [{"prompt": f"Say {i}.", "answers": [f"Gladly, {i}.", f"No, {i}."]} for i in range(4)]
    rows, _ = go(Judge(JudgeSettings(), 1, (JUDGED,)), items, Saying(say), tmp_path / "judge")
    sure = math.exp(-0.2) / (math.exp(-0.2) + math.exp(-1.6))
    assert [row["chosen_probability"] for row in rows] == [pytest.approx(sure, abs=1e-6)] * 4
    spec = make_spec(tmp_path / "judge" / "data.jsonl", method={"name": "reward"}, train={"max_steps": 2})
    assert train(new_run(spec, "run"))["ledger"]["train"]["rows_kept"] == 4
    assert "labels  4 of 4 pairs are soft, 0.802 on average" in capsys.readouterr().err


def test_a_judge_without_probabilities_leaves_hard_labels_and_says_so(make_spec, new_run, tmp_path, capsys):
    answers = [{"prompt": f"Say {i}.", "answers": [f"Gladly, {i}.", f"No, {i}, you fool."]} for i in range(4)]
    write_rows(tmp_path / "answers.jsonl", answers)
    folder = tmp_path / "judge"
    folder.mkdir()
    spec = SynthesisSpec(
        task="judge", seed=1, dir=str(folder), rows=str(tmp_path / "answers.jsonl"), role="judge",
        backend=BackendSettings(type="rules", patterns=["fool"]), settings={},
    )  # fmt: skip
    (folder / FILE).write_text(spec.to_json(), encoding="utf-8")
    assert make(folder)["soft_labels"] == 0
    said = capsys.readouterr().err
    assert said.count("4 of 4 pairs have a hard label: the judge gave a verdict and no probability") == 1
    train(new_run(make_spec(folder / "data.jsonl", method={"name": "reward"}, train={"max_steps": 1}), "run"))
    assert "soft" not in capsys.readouterr().err
