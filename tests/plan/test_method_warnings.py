"""What a plan warns of because of the method or its arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.core import hardware
from ftcli.plan.outlook import plan

PAIR = {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}
LABEL = {"prompt": "2 + 2 =", "completion": " 4", "label": True}


@pytest.mark.parametrize(
    ("row", "batch", "accumulation", "answers"),
    [(LABEL, 8, 1, 8), (LABEL, 4, 4, None), (PAIR, 4, 1, 8), (PAIR, 8, 1, None), (PAIR, 4, 2, None)],
)
def test_a_kto_step_of_few_answers_is_warned_of(row, batch, accumulation, answers, here):
    Path("rows.jsonl").write_text(f"{json.dumps(row)}\n" * 8, encoding="utf-8")
    size = (f"train.per_device_train_batch_size={batch}", f"train.gradient_accumulation_steps={accumulation}")
    common = ("method=kto", "data.path=rows.jsonl", *size)
    found = [text for text in plan(run_of(Request(overrides=common))).warnings if "reference point" in text]
    assert len(found) == (answers is not None)
    for text in found:
        assert text.startswith(f"a step has {answers} answers")
        assert "16 to 128" in text
    unread = plan(run_of(Request(overrides=(*common, "method.loss_type=apo_zero_unpaired"))))
    assert not any("reference point" in text for text in unread.warnings)


@pytest.mark.parametrize(("multiplies", "words", "warned"), [
    (False, ("train.bf16=true",), True), (True, ("train.bf16=true",), False), (None, ("train.bf16=true",), False),
    (False, (), False),
])  # fmt: skip
def test_bfloat16_on_a_cpu_that_has_none_is_warned_of(multiplies, words, warned, here, monkeypatch) -> None:
    monkeypatch.setattr(hardware, "cpu_multiplies_bfloat16", lambda: multiplies)
    found = plan(run_of(Request(overrides=("hardware=cpu", *words)))).warnings
    assert any("this CPU emulates bfloat16" in text for text in found) is warned
