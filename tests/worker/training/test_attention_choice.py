"""The attention kernel that a run measures: the fastest of those that compute it, the same in all its processes, kept.

Kernels are timed for real on a CPU, where torch has two; those that are slow or broken are planted.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AttentionInterface, LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ftcli.build.resolve import spec_of
from ftcli.build.resume import spec_from
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.models.attention_kernels import FLASH, FLASH_EXACTLY
from ftcli.runs import rundir
from ftcli.runs.measured_attention import AttentionChoice, as_measured, record, recorded
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.training import attention_choice
from ftcli.worker.training.attention_choice import fastest
from ftcli.worker.training.attention_timing import LayerTimer, Passes, few_layers, longest_rows
from ftcli.worker.training.run import train
from tests.ranks import Ranks
from tests.worker.conftest import same_weights
from tests.worker.tokenise.test_packing_exact import small

CANDIDATES = ("sdpa", "eager")
SLOW, BROKEN, FULL = "planted_slow", "planted_broken", "planted_full"
WORK = 60
"""How often the slow kernel computes what the others compute once."""


def slow(*given: Any, **named: Any) -> Any:
    return [sdpa_attention_forward(*given, **named) for _ in range(WORK)][-1]


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no kernel image is available for execution on the device\nand more")


def full(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture(scope="module", autouse=True)
def planted() -> None:
    for name, kernel in ((SLOW, slow), (BROKEN, broken), (FULL, full)):
        AttentionInterface.register(name, kernel)
        AttentionMaskInterface.register(name, sdpa_mask)


def of_training(*, packing: bool, checkpointing: bool = False) -> Any:
    """What a timer reads of a trainer's config."""
    return SimpleNamespace(
        device=torch.device("cpu"), packing=packing, pad_to_multiple_of=None, gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs=None, torch_compile=False,
    )  # fmt: skip


def timer(*, packing: bool, checkpointing: bool = False) -> LayerTimer:
    training = of_training(packing=packing, checkpointing=checkpointing)
    config = LlamaConfig(
        vocab_size=2**20, hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
    )
    return LayerTimer(config, [[100, 156], [256]] if packing else [[256], [180]], training, torch.float32)


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("checkpointing", [True, False], ids=["checkpointing", "kept"])
@pytest.mark.parametrize("order", [("sdpa", SLOW), (SLOW, "sdpa")], ids=["planned", "other"])
def test_a_slow_kernel_loses_wherever_it_stands(order: tuple[str, str], checkpointing: bool, packing: bool) -> None:
    found = fastest(order, timer(packing=packing, checkpointing=checkpointing), 0)
    assert (found.kernel, found.why) == ("sdpa", "the fastest")
    assert list(found.milliseconds) == ["sdpa", SLOW]
    # The layers' projections and norms take their time too, and a busy machine adds to one more than to the other.
    assert found.milliseconds[SLOW] > 3 * found.milliseconds["sdpa"] > 0
    assert "the fastest: sdpa " in found.text


def test_a_kernel_that_raises_or_does_not_fit_is_left_out_with_the_reason() -> None:
    found = fastest((BROKEN, FULL, "sdpa", "no_such_kernel"), timer(packing=False), 0)
    assert (found.kernel, found.why) == ("sdpa", "the only one that could be measured")
    assert found.left_out[BROKEN] == "no kernel image is available for execution on the device"
    assert found.left_out[FULL] == "out of memory"
    assert list(found.left_out) == [BROKEN, FULL, "no_such_kernel"]
    assert f"; {BROKEN} left out: no kernel image" in found.text


def test_where_none_can_be_measured_the_planned_one_stays() -> None:
    found = fastest((BROKEN, FULL), timer(packing=True), 0)
    assert (found.kernel, found.milliseconds) == (BROKEN, {})
    assert found.why == "as planned, since none could be measured"


def planned_beside(other: Passes, room: float = 100.0) -> AttentionChoice:
    """The choice between a planned kernel of 100 ms and 1000 bytes, and another."""
    return fastest(("sdpa", "eager"), {"sdpa": Passes(0.1, 1000), "eager": other}.__getitem__, room)


def test_a_kernel_is_taken_only_where_it_is_faster_by_more_than_repeats_differ() -> None:
    assert planned_beside(Passes(0.09, 1000)).kernel == "eager"
    close = planned_beside(Passes(0.098, 1000))
    assert (close.kernel, close.why) == ("sdpa", "as planned, since none is faster by 3%")
    assert close.text == "as planned, since none is faster by 3%: eager 98 ms, sdpa 100 ms"


def test_a_fast_kernel_that_needs_more_memory_than_the_run_was_planned_with_is_left_out() -> None:
    assert planned_beside(Passes(0.01, 1100)).kernel == "eager"
    large = planned_beside(Passes(0.01, 2**30 + 1000))
    assert large.kernel == "sdpa"
    assert large.left_out == {"eager": "it needs 1.0 GiB more than sdpa, with which the run was planned"}
    assert planned_beside(Passes(0.01, 10)).kernel == "eager"


def test_the_rows_that_are_timed_are_the_longest_ones_as_they_go_through_the_model() -> None:
    def ids(*lengths: int) -> list[list[int]]:
        return [[5] * length for length in lengths]

    alone = Dataset.from_dict({"input_ids": ids(3, 9, 7), "labels": ids(3, 9, 7)})
    assert longest_rows(alone, 2) == [[9], [7]]
    assert longest_rows(alone, 8) == [[9], [7], [3]]
    packed = Dataset.from_dict({"input_ids": ids(8, 9, 9), "seq_lengths": [[4, 4], [2, 7], [9]]})
    assert longest_rows(packed, 2) == [[2, 7], [9]]
    pairs = Dataset.from_dict(
        {"prompt_ids": ids(2, 5, 1), "chosen_ids": ids(1, 2, 8), "rejected_ids": ids(2, 1, 1), "row": ["", "", ""]}
    )
    assert sorted(longest_rows(pairs, 2)) == [[2], [6], [7], [9]]
    labelled = Dataset.from_dict(
        {"prompt_ids": ids(2, 5), "chosen_ids": ids(0, 2), "rejected_ids": ids(4, 0)}  # each has one side
    )
    assert sorted(longest_rows(labelled, 2)) == [[6], [7]]


@pytest.mark.parametrize("model_type", sorted(FLASH_EXACTLY))
def test_an_architecture_that_has_several_kernels_can_be_timed_with_each_kind_of_its_layers(model_type: str) -> None:
    config = small(model_type, "eager").config
    few = few_layers(config)
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    assert set(getattr(few, "layer_types", None) or ["full_attention"]) == set(kinds)
    assert few.num_hidden_layers == len(set(kinds))
    assert config.num_hidden_layers == 2  # unchanged
    found = LayerTimer(config, [[5, 3], [8]], of_training(packing=True), torch.float32)("eager")
    assert found.seconds > 0
    assert found.extra_bytes is None


def test_a_run_trains_with_what_it_measured_as_if_it_had_been_named(
    make_spec: Any, new_run: Any, sft_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec: RunSpec = make_spec(sft_file, method={"packing": True}, max_length_tokens=64)
    measured = new_run(replace(spec, attention_candidates=CANDIDATES), "measured")
    machine = train(measured)["machine"]
    taken = recorded(measured)
    assert taken is not None
    assert taken.milliseconds.keys() == set(CANDIDATES)
    assert machine["attention"] == taken.kernel == machine["attention_measured"]["kernel"]
    assert machine["attention_measured"]["milliseconds"] == taken.milliseconds
    assert f"attention: {taken.kernel}, {taken.text}\n" in capfd.readouterr().err
    named = new_run(replace(spec, model=replace(spec.model, attn_implementation=taken.kernel)), "named")
    assert "attention_measured" not in train(named)["machine"]
    assert same_weights(measured, named)


def never(*_: Any) -> Any:
    raise AssertionError("nothing is measured twice")


def test_a_resumed_run_keeps_what_it_took_and_measures_nothing(
    make_spec: Any, new_run: Any, sft_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: RunSpec = make_spec(sft_file, train={"save_strategy": "steps", "save_steps": 2, "max_steps": 4})
    first = new_run(replace(spec, attention_candidates=CANDIDATES), "first")
    train(first)
    taken = recorded(first)
    assert taken is not None
    other = next(name for name in CANDIDATES if name != taken.kernel)
    monkeypatch.setattr(attention_choice, "LayerTimer", never)
    whole = new_run(replace(spec, model=replace(spec.model, attn_implementation=taken.kernel)), "whole")
    train(whole)
    result = train(first, first / rundir.CHECKPOINTS / "checkpoint-2")
    assert result["machine"]["attention"] == taken.kernel
    assert result["machine"]["attention_measured"]["milliseconds"] == taken.milliseconds
    assert same_weights(first, whole)
    record(first, replace(taken, kernel=other))  # as if it had come out otherwise then
    assert train(first, first / rundir.CHECKPOINTS / "checkpoint-2")["machine"]["attention"] == other
    (first / rundir.ATTENTION).unlink()
    planned = train(first, first / rundir.CHECKPOINTS / "checkpoint-2")["machine"]
    assert planned["attention"] == CANDIDATES[0]
    assert planned["attention_measured"]["why"] == "as planned, since the run kept no measurement"


def test_what_starts_from_a_run_takes_the_kernel_that_it_took(tmp_path: Path) -> None:
    spec = spec_of(Request(overrides=("hardware=cpu", "hardware.num_threads=1")))
    assert spec.attention_candidates == ()  # on a CPU nothing is measured
    run = tmp_path / "run"
    run.mkdir()
    (run / rundir.SPEC).write_text(replace(spec, attention_candidates=CANDIDATES).to_json(), encoding="utf-8")
    stored = RunSpec.load(run / rundir.SPEC)
    assert stored.attention_candidates == CANDIDATES
    assert as_measured(stored, run) == stored  # not begun: it would measure
    record(run, AttentionChoice(kernel="eager", why="the fastest", milliseconds={"eager": 1.0, "sdpa": 2.0}))
    again = spec_from(run, Request(overrides=(f"run.dir={tmp_path / 'again'}",)))
    assert (again.model.attn_implementation, again.attention_candidates) == ("eager", ())
    (note,) = [note for note in again.notes if note.key == "model.attn_implementation"]
    assert (note.value, note.why) == ("eager", "the fastest: eager 1 ms, sdpa 2 ms")


def test_two_processes_train_with_what_the_first_one_took(tmp_path: Path, ranks_of: Ranks) -> None:
    words = (
        "method=sft", "hardware=multi_gpu", "hardware.device=cpu", "hardware.num_threads=1", "train.max_steps=1",
        "train.save_strategy=no", "train.eval_strategy=no", "run.score_rows=0", "data.max_rows=32",
        "train.per_device_train_batch_size=2", f"run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    spec = replace(spec_of(Request(overrides=words)), attention_candidates=CANDIDATES)
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    ranks_of("tests.attention_taken", "train", str(run), cwd=tmp_path, number=2)
    assert [(run / f"kernel-{rank}").read_text(encoding="utf-8") for rank in (0, 1)] == ["eager", "eager"]
    assert json.loads((run / rundir.RESULT).read_text(encoding="utf-8"))["machine"]["attention"] == "eager"


def test_neither_a_spec_nor_a_record_brings_code_from_the_hub(make_spec: Any, new_run: Any, sft_file: Path) -> None:
    spec: RunSpec = make_spec(sft_file)
    for strange in (("somebody/kernel", "sdpa"), ("sdpa", "somebody/kernel")):
        run = new_run(replace(spec, attention_candidates=strange), strange[0].replace("/", "-"))
        with pytest.raises(ConfigError, match="somebody/kernel is code from the hub"):
            train(run)
    run = new_run(replace(spec, attention_candidates=CANDIDATES), "recorded")
    record(run, AttentionChoice(kernel="somebody/kernel", why="the fastest"))
    with pytest.raises(ConfigError, match="is damaged"):
        train(run)
    (run / rundir.ATTENTION).write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="is damaged"):
        train(run)


def test_a_run_that_began_with_a_kernel_that_is_not_here_says_so(
    make_spec: Any, new_run: Any, sft_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = next(iter(FLASH))
    spec = replace(make_spec(sft_file, train={"max_steps": 1}), attention_candidates=(name, "sdpa"))
    machine = train(new_run(spec, "fresh"))["machine"]
    assert machine["attention"] == "sdpa"
    assert f"{name} left out: the package {FLASH[name].distribution} is not installed" in capfd.readouterr().err
    run = new_run(spec, "moved")
    record(run, AttentionChoice(kernel=name, why="the fastest"))
    with pytest.raises(ConfigError, match=f"the run began with {name} attention"):
        train(run)
