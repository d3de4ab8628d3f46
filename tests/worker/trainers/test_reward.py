"""The reward model's loss by hand: with a margin out of the rows, and with scores kept around zero."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from ftcli.core.errors import DataError
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer, train
from tests.worker.conftest import LORA, pair_of_answers, write_rows

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
