"""accelerate makes copies of what it cannot shard, without a word: a run that was planned otherwise is refused."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from transformers import TrainingArguments

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs import run_end, rundir
from tests.ranks import Ranks


def test_a_run_that_accelerate_would_not_shard_is_refused(tmp_path: Path, ranks_of: Ranks) -> None:
    run = tmp_path / "run"
    words = ("hardware=fsdp", "hardware.device=cpu", "hardware.num_threads=1", "train.max_steps=1", "data.max_rows=16")
    spec = spec_of(Request(overrides=(*words, "run.score_rows=0", f"run.dir={run}")))
    run.mkdir()
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    with pytest.raises(AssertionError, match="planned for FSDP, but started with copies"):
        ranks_of("tests.unaided_worker", "train", str(run), cwd=tmp_path, number=2)
    assert (end := run_end.read(run)) is not None
    assert end.code == 2
    assert not (run / rundir.MODEL).exists()


def test_transformers_still_gathers_the_whole_state_under_fsdp() -> None:
    # accelerate's own default is sharded, under which save_model writes nothing
    source = inspect.getsource(TrainingArguments._process_fsdp_args)
    assert 'get("state_dict_type", "FULL_STATE_DICT")' in source
