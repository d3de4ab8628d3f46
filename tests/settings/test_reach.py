"""Every field that a spec can set says what it reaches, in one table, and the guard follows from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config import reach
from ftcli.config.compose import Request
from ftcli.launch import slurm
from ftcli.peft_methods import PEFT_METHODS
from ftcli.peft_methods.other import tuner_configs
from ftcli.settings.backends import ENDPOINTS, BackendSettings
from ftcli.settings.fields import field_table
from ftcli.settings.fields.deepspeed_fields import ROWS as DEEPSPEED
from ftcli.settings.fields.field_row import LISTED
from ftcli.settings.fields.own_fields import BACKEND, SBATCH
from ftcli.settings.groups import OWN_GROUPS
from ftcli.settings.library_fields import fields_of
from ftcli.settings.ownership import ENDPOINT, FLAGS

_ZERO = "deepspeed.runtime.zero"
DEEPSPEED_CLASSES = {
    "train.deepspeed.zero_optimization": f"{_ZERO}.config:DeepSpeedZeroConfig",
    "train.deepspeed.zero_optimization.offload_param": f"{_ZERO}.offload_config:DeepSpeedZeroOffloadParamConfig",
    "train.deepspeed.zero_optimization.offload_optimizer": (
        f"{_ZERO}.offload_config:DeepSpeedZeroOffloadOptimizerConfig"
    ),
}


def test_every_field_of_every_tuner_of_the_installed_peft_is_sorted():
    """The fields of the trainers' configs are held to the same in test_field_table.py."""
    names = {name for config in tuner_configs().values() for name in fields_of(config)}
    names |= {name for peft in PEFT_METHODS.values() for name in peft.fields()}
    assert {name for name in names if field_table.row_of(f"peft.{name}") is None} == set()


def test_every_setting_of_our_own_is_sorted():
    own = {f"{group}.{field.name}" for group, kind in OWN_GROUPS.items() for field in dataclasses.fields(kind)}
    assert own == set(field_table.OWN)
    assert {field.name for field in dataclasses.fields(BackendSettings)} == set(BACKEND)
    assert {name.removeprefix("hardware.sbatch.") for name in SBATCH} == set(slurm.OPTIONS)


@pytest.mark.parametrize("name", DEEPSPEED_CLASSES)
def test_every_entry_of_deepspeed_s_classes_is_sorted(name):
    pytest.importorskip("deepspeed")
    assert DEEPSPEED[name].inside == LISTED
    assert {f"{name}.{field}" for field in fields_of(DEEPSPEED_CLASSES[name])} - DEEPSPEED.keys() == set()


def test_what_leaves_the_run_needs_a_flag_or_says_what_holds_it():
    for name, row in {**field_table.FIELDS, **field_table.ENTRIES}.items():
        leaves = {"writes", "sends", "runs"} & set(row.reaches)
        if leaves and not (row.owner or row.refused):
            assert row.grant or row.guarded, name
        if row.grant:
            assert leaves, name
            assert row.grant in FLAGS, name
        assert not row.harmless or row.grant, name


def test_the_kinds_that_the_issue_names_are_guarded():
    every = {**field_table.FIELDS, **field_table.ENTRIES}
    for name, reaches in {
        "method.log_completions_hub_repo": "sends",
        "train.push_to_hub": "sends",
        "method.vllm_server_base_url": "sends",
        "method.vllm_server_host": "sends",
        "train.report_to": "sends",
        "train.deepspeed.flops_profiler.output_file": "writes",
        "train.deepspeed.tensorboard": "writes",
        "train.deepspeed.csv_monitor": "writes",
        "train.deepspeed.wandb": "sends",
        "train.deepspeed.comet": "sends",
        "train.deepspeed.zero_optimization.offload_param.nvme_path": "writes",
        "train.deepspeed.zero_optimization.offload_optimizer.nvme_path": "writes",
    }.items():
        assert reaches in every[name].reaches, name
        assert every[name].grant, name
    assert every["train.hub_token"].refused


def test_a_backend_sends_exactly_where_its_type_is_an_endpoint():
    row = BACKEND["type"]
    assert row.grant == ENDPOINT
    assert not set(row.harmless) & set(ENDPOINTS)


def test_a_field_whose_reach_nobody_sorted_may_only_be_typed(here: Path, problems, monkeypatch):
    """As an upgrade of a library would bring one."""
    monkeypatch.delitem(field_table.FIELDS, "train.max_grad_norm")
    (here / "r.yaml").write_text("ftcli: 1\ndefaults:\n  - method: sft\ntrain: {max_grad_norm: 2.0}\n")
    [found] = problems("recipe=r.yaml")
    assert "r.yaml:4  nobody has sorted yet what train.max_grad_norm reads, writes, sends or runs" in found
    assert problems("train.max_grad_norm=2.0") == []


def test_what_was_typed_gives_the_flags_that_a_job_of_its_own_needs():
    spec = spec_of(Request(overrides=("train.report_to=[]", "model.attn_implementation=eager")))
    assert spec.grants == ()
    tree = {"train": {"report_to": ["wandb"], "deepspeed": {"csv_monitor": {"enabled": True}}}}
    assert reach.flags_of(tree) == {ENDPOINT, "--allow-path"}
    judge = {"type": "openai", "model": "m", "base_url": "http://x"}
    assert reach.flags_of({"method": {"judge": judge}}) == {ENDPOINT}
    assert reach.flags_of({"method": {"judge": {"type": "local", "base_url": "http://x"}}}) == frozenset()
