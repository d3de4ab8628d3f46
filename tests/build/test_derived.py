"""Values that are derived from others."""

from __future__ import annotations

import pytest

from ftcli.build.resolve import run_of, spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.plan.outlook import plan
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("overrides", "expected", "noted"),
    [
        ((), 8, False),  # of 8 rows that train
        (("train.per_device_train_batch_size=16",), 8, False),
        (("train.per_device_train_batch_size=4",), 8, False),
        (("train.per_device_train_batch_size=3",), 6, True),
        (("train.per_device_train_batch_size=1",), 2, True),
        (("train.per_device_train_batch_size=1", "train.per_device_eval_batch_size=5"), 5, False),
        # Of methods that sample, answers come in groups.
        (("method=grpo", "train.per_device_train_batch_size=4", "method.num_generations=4"), 8, False),
    ],
)
def test_an_evaluation_has_at_most_twice_the_rows_that_train(overrides, expected, noted):
    spec = spec_of(Request(overrides=("hardware=cpu", *overrides)))
    assert spec.train["per_device_eval_batch_size"] == expected
    assert any(note.key == "train.per_device_eval_batch_size" for note in spec.notes) == noted


ROWS = REPOSITORY / "ftcli" / "tiny" / "data" / "instructions.eval.jsonl"
HELD_OUT = ("hardware=cpu", "model=tiny", "data.eval_share=0.25")


@pytest.mark.parametrize(
    ("overrides", "expected", "why"),
    [
        ((*HELD_OUT, "run.score_rows=0"), True, "one pass over the held-out rows"),
        ((*HELD_OUT, "run.score_rows=4"), True, "with run.score_rows"),
        ((*HELD_OUT, "run.score_rows=0", "train.eval_strategy=no"), False, "train.eval_strategy=no"),
        ((*HELD_OUT, "run.score_rows=0", "train.eval_on_start=true"), False, "train.eval_on_start measures it"),
        ((*HELD_OUT, "run.loss_before=false"), False, None),
        (("hardware=cpu", "model=tiny", f"data.path={ROWS}"), False, None),
        (("hardware=cpu", "method=grpo", "method.rewards={ended: 1}"), False, None),
    ],
)
def test_the_loss_before_training_is_measured_where_a_run_evaluates(overrides, expected, why):
    spec = spec_of(Request(overrides=overrides))
    notes = [note.why for note in spec.notes if note.key == "run.loss_before"]
    assert spec.run.loss_before is expected
    assert [note.startswith(why or "") for note in notes] == ([] if why is None else [True])


def test_the_plan_says_how_many_steps_the_loss_before_training_takes(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a b c"}\n' * 160, encoding="utf-8")
    words = (*HELD_OUT, f"data.path={rows}", "method=pretrain", "method.packing=false", "run.score_rows=0",
             "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=1")  # fmt: skip
    outlook = plan(run_of(Request(overrides=words)))
    [why] = [note["why"] for note in outlook.notes if note["key"] == "run.loss_before"]
    # 40 of 160 rows are held out: without gradients as long as 40 / 3 rows, which are 3.3 steps of 4.
    assert why == "one pass over the held-out rows, as long as about 3 training steps"


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (("model=tiny", f"data.path={ROWS}", "run.loss_before=true"), "run.loss_before needs held-out rows"),
        (("method=grpo", "method.rewards={ended: 1}", "run.loss_before=true"), "is measured by its rewards"),
        ((*HELD_OUT[1:], "train.eval_on_start=true", "run.loss_before=true"), "run.loss_before has no effect with"),
        ((*HELD_OUT[1:], "train.eval_on_start=true", "run.loss_before=false"), "run.loss_before has no effect with"),
    ],
)
def test_a_loss_before_training_that_is_not_measured_is_refused(overrides, what):
    with pytest.raises(ConfigError, match=what):
        spec_of(Request(overrides=("hardware=cpu", *overrides)))
