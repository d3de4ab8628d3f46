"""How many steps a resume would make, in steps and in epochs, against those that are done."""

from __future__ import annotations

import json

import pytest

from ftcli.build.resolve import spec_of
from ftcli.build.resume import has_steps_left, resumed_spec
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A finished run of 2 epochs: 14 rows in batches of 4, three accumulated, are 2 steps an epoch."""
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"prompt": f"Add {i}.", "completion": f"{i}."}) + "\n" for i in range(14)]
    (tmp_path / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    overrides = (
        "method=sft", "model=tiny", "data.path=rows.jsonl", "method.packing=false", "train.num_train_epochs=2",
        "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=3", "hardware=cpu",
    )  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    (run / rundir.SPEC).write_text(spec_of(Request(overrides=overrides)).to_json(), encoding="utf-8")
    (run / rundir.LEDGER).write_text(json.dumps({"train": {"sequences": 14}}), encoding="utf-8")
    (run / rundir.RESULT).write_text(json.dumps({"steps": 4}), encoding="utf-8")
    return run


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ("train.num_train_epochs=1", 2),
        ("train.num_train_epochs=1.5", 3),
        ("train.num_train_epochs=1.6", 4),  # 3.2 steps are 4
        ("train.num_train_epochs=2", 4),
        ("train.num_train_epochs=2.5", 5),
        ("train.max_steps=3", 3),
        ("train.max_steps=4", 4),
        ("train.max_steps=5", 5),
    ],
)
def test_a_length_in_steps_or_epochs_is_compared_with_what_was_trained(change, steps, finished):
    if steps < 4:
        with pytest.raises(ConfigError, match=f"makes {steps} steps, and .* has trained 4 already") as caught:
            resumed_spec(finished, [change])
        [problem] = caught.value.problems
        assert problem.where == change
        assert change in problem.fix
    else:
        assert has_steps_left(finished, resumed_spec(finished, [change])) is (steps > 4)


def test_a_cadence_alone_is_no_length(finished):
    (finished / rundir.RESULT).write_text(json.dumps({"steps": 9}), encoding="utf-8")
    assert not has_steps_left(finished, resumed_spec(finished, ["train.logging_steps=1"]))


def test_a_run_that_has_counted_no_rows_yet_is_compared_by_its_steps_only(finished):
    (finished / rundir.LEDGER).unlink()
    assert has_steps_left(finished, resumed_spec(finished, ["train.num_train_epochs=1"]))  # the worker refuses it
    with pytest.raises(ConfigError, match="has trained 4 already"):
        resumed_spec(finished, ["train.max_steps=3"])
    (finished / rundir.RESULT).unlink()
    assert has_steps_left(finished, RunSpec.load(finished / rundir.SPEC))
