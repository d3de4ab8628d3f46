"""Which runs read their model once a machine: those in which nothing needs a weight before FSDP has sharded it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.peft_methods import PEFT_METHODS, starts_plain
from ftcli.peft_methods.initialisations import WORDS
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.shared_loading import wanted, why_each_reads

FSDP = ("hardware=fsdp", "hardware.device=cpu", "run.score_rows=0", "run.dir=r")
KNOWN = {"is_adapter": False, "stored_quantised": False, "plain_start": True}


def run(*words: str) -> ResolvedRun:
    return run_of(Request(overrides=(*FSDP, *words)))


def reason(*words: str) -> str | None:
    found = run(*words)
    known = {**KNOWN, "plain_start": starts_plain(found.peft, found.spec.peft)}
    return why_each_reads(found.spec, **known)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("method=dpo",),
        ("method=reward",),
        ("method=dpo", "peft=lora"),
        ("peft=rslora",),
        ("peft=loraplus",),
        ("peft=lora", "peft.init_lora_weights=gaussian"),
        ("peft=freeze",),
    ],
)
def test_one_process_reads_for_all(words: tuple[str, ...]) -> None:
    assert reason(*words) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run.score_rows=8",), "scores the model before"),
        (("run.gate={retention: -0.02}",), "measures the model before"),
        (("method=dpo", "method.precompute_ref_log_probs=true"), "log-probabilities are computed before"),
        (("peft=lora", "quantisation=nf4"), "quantised"),
        (("model.init=random",), "random weights"),
        (("model.new_tokens=['<a>']",), "means of the others"),
        (("train.torch_compile=true",), "compiled"),
        (("train.fsdp_config={version: 1}",), "version 1"),
        (("peft=lora", "peft.modules_to_save=[lm_head]", "peft.ensure_weight_tying=true"), "starts from the weights"),
        (("peft=dora",), "starts from the weights"),
    ],
)  # fmt: skip
def test_each_process_reads_what_is_needed_before_it_is_sharded(words: tuple[str, ...], expected: str) -> None:
    assert expected in str(reason(*words))


def test_an_adapter_of_which_nobody_has_looked_is_no_plain_start() -> None:
    plain = {"lora", "rslora", "loraplus", "qlora", "freeze"}
    found = {name for name, each in PEFT_METHODS.items() if each.plain_start(each.config_values({"name": name}))}
    assert found == plain


@pytest.mark.parametrize("start", [*WORDS, "pissa", "pissa_niter_4", True, False])
def test_lora_starts_plain_unless_its_initialisation_reads_the_weights(start: Any) -> None:
    plain = starts_plain(PEFT_METHODS["lora"], {"name": "lora", "init_lora_weights": start})
    assert plain == (start in (True, False, "gaussian"))


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"train": {}}, {}),
        ({"train": {"deepspeed": {"zero_optimization": {"stage": 3}}}}, {}),
        ({}, {"is_adapter": True}),
        ({}, {"stored_quantised": True}),
        ({}, {"plain_start": False}),
    ],
)
def test_what_is_known_of_the_model_decides_too(change: dict[str, Any], known: dict[str, bool]) -> None:
    spec = run().spec
    assert why_each_reads(spec, **KNOWN) is None
    assert why_each_reads(replace(spec, **change), **{**KNOWN, **known}) is not None
    assert (
        why_each_reads(replace(spec, launch=replace(spec.launch, num_processes=1)), **KNOWN) == "there is one process"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{}", None), ("{cpu_ram_efficient_loading: true}", True), ("{fsdp_cpu_ram_efficient_loading: false}", False)],
)
def test_what_the_user_wrote_is_read(text: str, expected: bool | None) -> None:
    assert wanted(run(f"train.fsdp_config={text}").spec) is expected


def test_what_a_run_cannot_have_is_refused_with_the_reason() -> None:
    asked = "train.fsdp_config={cpu_ram_efficient_loading: true}"
    run(asked)
    with pytest.raises(ConfigError) as caught:
        run(asked, "peft=dora")
    assert "the adapter starts from the weights of the model" in str(caught.value)
