"""Where FSDP2 or ZeRO shards a model it learns what copies of it learn, and is resumed and saved exactly.

Two gloo processes each; `make proof` goes through all of the layouts, `make test` through one of each kind.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from ftcli import tiny
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec
from tests.whole.conftest import Ranks, steps

COMMON = (
    "train.learning_rate=1e-3", "train.max_steps=6", "train.logging_steps=1", "train.save_steps=3",
    "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2", "data.max_rows=60",
    "run.score_rows=8", "hardware=cpu", "hardware.num_processes=2", "hardware.num_threads=1",
)  # fmt: skip
PPO = (
    "train.max_grad_norm=0",  # DeepSpeed clips policy and critic by one norm
    "method=ppo", "method.num_ppo_epochs=2", "method.max_new_tokens=12", "data.eval_share=0.15",
    "method.rewards={ended: 1, length: {weight: 1, most: 4}}",
)  # fmt: skip

AUTO = "train_micro_batch_size_per_gpu: auto, gradient_accumulation_steps: auto, gradient_clipping: auto"
WHOLE = "stage3_gather_16bit_weights_on_model_save: true"
LAYOUTS = {
    "copies": (),
    "fsdp2": ("train.fsdp=true",),
    "zero2": (f"train.deepspeed={{zero_optimization: {{stage: 2}}, {AUTO}}}",),
    "zero3": (f"train.deepspeed={{zero_optimization: {{stage: 3, {WHOLE}}}, {AUTO}}}",),
}
RUNS = {
    # a head on the policy, and a copy of it for a reference
    "ppo": PPO,
    # a network of the critic's own, and the policy itself for a reference
    "ppo-lora": (*PPO, "peft=lora", "method.reward_model=judge", "method.value_model=reward_model"),
    "sft": ("method=sft", "method.packing=false"),
    "dpo": ("method=dpo",),
    "dpo-lora": ("method=dpo", "peft=lora"),
    "sft-nf4": ("method=sft", "method.packing=false", "peft=lora", "quantisation=nf4"),
}
_SAMPLE = {("fsdp2", "ppo"), ("zero3", "ppo-lora")}
CELLS = [(layout, run) for layout in LAYOUTS if layout != "copies" for run in RUNS]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose head is new."""
    folder = tmp_path_factory.mktemp("judges") / "judge"
    set_seed(0)
    for kind, more in ((AutoModelForSequenceClassification, {"num_labels": 1}), (AutoTokenizer, {})):
        kind.from_pretrained(tiny.MODEL_DIR, **more).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(judge: Path, tmp_path_factory: pytest.TempPathFactory, ranks_of: Ranks):
    """Runs in a layout, each trained once."""
    folder = tmp_path_factory.mktemp("sharded")
    shutil.copytree(judge, folder / "judge")
    found: dict[tuple[str, str], Path] = {}

    def train(layout: str, name: str) -> Path:
        if (layout, name) not in found:
            found[layout, name] = run_of(folder, layout, name, ranks_of)
        return found[layout, name]

    return train


def run_of(folder: Path, layout: str, name: str, ranks_of: Ranks, *more: str) -> Path:
    """A run from its first step to its last."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        overrides = (*COMMON, *LAYOUTS[layout], *RUNS[name], *more, f"run.dir={layout}-{name}")
        spec = spec_of(Request(overrides=overrides))
    finally:
        os.chdir(before)
    run = folder / f"{layout}-{name}"
    run.mkdir()
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    ranks_of("ftcli.worker", "train", str(run), cwd=folder, number=2)
    return run


def one_file(folder: Path) -> Path:
    """The saved weights, of a model or an adapter."""
    (file,) = folder.glob("*model.safetensors")
    return file


@pytest.mark.parametrize(("layout", "name"), CELLS)
def test_a_sharded_model_learns_as_copies_do_and_resumes_exactly(layout, name, trained, tmp_path, ranks_of: Ranks):
    if (layout, name) not in _SAMPLE and not os.environ.get("FTCLI_PROOF"):
        pytest.skip("make proof goes through every layout")
    if layout.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    run, copies = trained(layout, name), trained("copies", name)
    for ours, theirs in zip(steps(run), steps(copies), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        for told in ("reward", "kl", "value/explained_variance"):
            assert (told in ours) == (told in theirs)
            if told in ours:
                assert ours[told] == pytest.approx(theirs[told], rel=1e-3, abs=1e-3)
    halted = tmp_path / "halted"
    shutil.copytree(run, halted)
    for folder in (halted / rundir.CHECKPOINTS).iterdir():
        if folder.name != "checkpoint-3":  # in the middle of what is learned from a rollout
            shutil.rmtree(folder)
    shutil.rmtree(halted / rundir.MODEL)
    (halted / rundir.RESULT).unlink()
    resume = ("--resume", str(halted / rundir.CHECKPOINTS / "checkpoint-3"))
    ranks_of("ftcli.worker", "train", str(halted), *resume, cwd=tmp_path, number=2)
    assert one_file(halted / rundir.MODEL).read_bytes() == one_file(run / rundir.MODEL).read_bytes()
    for critic in (run / rundir.CHECKPOINTS / "checkpoint-6").glob("critic.safetensors"):
        assert (halted / critic.relative_to(run)).read_bytes() == critic.read_bytes()
    ours, theirs = (load_file(one_file(each / rundir.MODEL)) for each in (run, copies))
    assert ours.keys() - theirs.keys() <= {"lm_head.weight"}  # which DeepSpeed saves beside the embedding it is
    assert all((ours[key] - tensor).abs().mean() < 1e-5 for key, tensor in theirs.items())


@pytest.mark.parametrize(("layout", "name"), [*CELLS, ("copies", "ppo")])
def test_a_run_extended_on_shards_ends_like_one_planned_that_long(layout, name, judge, tmp_path, ranks_of: Ranks):
    """Of 4 steps the fourth was to have half the rate, of 6 the whole: so have the optimisers of policy and critic."""
    if (layout, name) != ("fsdp2", "ppo") and not os.environ.get("FTCLI_PROOF"):
        pytest.skip("make proof goes through every layout")
    if layout.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    shutil.copytree(judge, tmp_path / "judge")
    stable = (
        "train.lr_scheduler_type=warmup_stable_decay", "train.lr_scheduler_kwargs={num_decay_steps: 2}",
        "train.warmup_steps=0", "run.score_rows=0",
    )  # fmt: skip
    planned = run_of(tmp_path, layout, name, ranks_of, *stable).rename(tmp_path / "planned")
    run = run_of(tmp_path, layout, name, ranks_of, *stable, "train.max_steps=4")
    shutil.rmtree(run / rundir.CHECKPOINTS / "checkpoint-4")
    spec = RunSpec.load(run / rundir.SPEC)
    (run / rundir.SPEC).write_text(replace(spec, train={**spec.train, "max_steps": 6}).to_json(), encoding="utf-8")
    resume = ("--resume", str(run / rundir.CHECKPOINTS / "checkpoint-3"))
    ranks_of("ftcli.worker", "train", str(run), *resume, cwd=tmp_path, number=2)
    rates = [[step["learning_rate"] for step in steps(each)] for each in (run, planned)]
    assert rates[0] == rates[1] == pytest.approx([1e-3] * 5 + [5e-4])
    result = rundir.read_result(run)
    assert result is not None
    assert [each["same"] for each in result["length_changes"]] == [True]
    assert one_file(run / rundir.MODEL).read_bytes() == one_file(planned / rundir.MODEL).read_bytes()
    for critic in (planned / rundir.CHECKPOINTS / "checkpoint-6").glob("critic.safetensors"):
        assert (run / critic.relative_to(planned)).read_bytes() == critic.read_bytes()
