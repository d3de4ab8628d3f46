"""The attention kernel of a run: what is installed, and fits its card and its model; noted, and never fetched."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core import hardware, rotary_angles
from ftcli.core.errors import ConfigError
from ftcli.core.hardware import Gpu
from ftcli.models.attention_kernels import FLASH, candidates, chosen
from ftcli.models.read_config import shape_from_mapping

TURING, AMPERE, ADA = Gpu("T4", 15.0, (7, 5)), Gpu("A100", 80.0, (8, 0)), Gpu("L4", 22.5, (8, 9))
HOPPER, BLACKWELL = Gpu("H100", 79.6, (9, 0)), Gpu("B200", 179.0, (10, 0))
ALL = tuple(FLASH)
TWO, THREE, FOUR = "flash_attention_2", "flash_attention_3", "flash_attention_4"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes these versions of flash attention, and no other, the installed ones."""

    def only(*names: str) -> None:
        found = {FLASH[name].distribution for name in names}
        modules = {FLASH[name].module for name in names}
        real = importlib.util.find_spec

        def find_spec(name: str, package: str | None = None) -> Any:
            own = name in {kernel.module for kernel in FLASH.values()}
            return (SimpleNamespace() if name in modules else None) if own else real(name, package)

        def version(name: str) -> str:
            if name not in found:
                raise importlib.metadata.PackageNotFoundError(name)
            return "9.9"

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        monkeypatch.setattr(importlib.metadata, "version", version)

    return only


def shape(**values: Any) -> Any:
    found = shape_from_mapping(
        {"model_type": "llama", "vocab_size": 100, "hidden_size": 256, "intermediate_size": 512,
         "num_hidden_layers": 2, "num_attention_heads": 4, **values}
    )  # fmt: skip
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("packages", "card", "expected"),
    [
        ((), AMPERE, "sdpa"),
        ((TWO,), TURING, "sdpa"),  # which needs Ampere
        ((TWO,), AMPERE, TWO),
        ((TWO,), BLACKWELL, TWO),
        ((THREE,), ADA, "sdpa"),
        ((TWO, THREE), ADA, TWO),
        ((TWO, THREE), HOPPER, THREE),
        ((TWO, THREE), BLACKWELL, TWO),  # the third version is Hopper's alone
        (ALL, HOPPER, FOUR),
        (ALL, BLACKWELL, FOUR),
        ((FOUR,), AMPERE, "sdpa"),
    ],
)
def test_the_newest_flash_attention_that_is_installed_and_fits_the_card(
    packages: tuple[str, ...], card: Gpu, expected: str, installed: Any
) -> None:
    installed(*packages)
    assert chosen(shape(), (card,), packed_tokens=None)[0] == expected
    assert chosen(shape(), (), packed_tokens=None)[0] == "sdpa"  # on a CPU


def test_the_slowest_of_several_cards_and_the_widest_head_decide(installed: Any) -> None:
    installed(*ALL)
    assert chosen(shape(), (HOPPER, AMPERE), packed_tokens=None)[0] == TWO
    assert chosen(shape(head_dim=256), (HOPPER,), packed_tokens=None)[0] == THREE
    assert chosen(shape(head_dim=512), (HOPPER,), packed_tokens=None)[0] == "sdpa"
    assert chosen(shape(model_type="opt", ffn_dim=512), (HOPPER,), packed_tokens=None)[0] == "sdpa"
    assert chosen(None, (HOPPER,), packed_tokens=None)[0] == "sdpa"


def test_long_packed_rows_take_flex_attention_where_no_flash_attention_is_installed(installed: Any) -> None:
    installed()
    long = {"packed_tokens": 8192}
    assert chosen(shape(), (AMPERE,), **long)[0] == "flex_attention"
    assert chosen(shape(), (AMPERE,), packed_tokens=8191)[0] == "sdpa"
    assert chosen(shape(), (TURING,), **long)[0] == "sdpa"
    assert chosen(shape(), (), **long)[0] == "sdpa"
    assert chosen(shape(head_dim=80), (AMPERE,), **long)[0] == "sdpa"  # not a power of two
    installed(TWO)
    assert chosen(shape(), (AMPERE,), **long)[0] == TWO


def test_the_choice_is_noted_in_the_run(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (HOPPER,))
    for packages, length, expected in (((TWO,), "auto", TWO), ((), "16384", "flex_attention"), ((), "auto", "sdpa")):
        installed(*packages)
        spec = spec_of(Request(overrides=("hardware=gpu", "model=qwen-0.6b", f"data.max_length_tokens={length}")))
        (note,) = [each for each in spec.notes if each.key == "model.attn_implementation"]
        assert spec.model.attn_implementation == note.value == expected
        assert spec.method["packing"] is True
    unpacked = ("hardware=gpu", "model=qwen-0.6b", "data.max_length_tokens=16384", "method.packing=false")
    assert spec_of(Request(overrides=unpacked)).model.attn_implementation == "sdpa"


def test_several_kernels_are_candidates_with_the_one_of_the_rule_first(installed: Any) -> None:
    installed(*ALL)
    assert candidates(shape(), (HOPPER,), packed_tokens=8192) == (FOUR, THREE, TWO, "flex_attention", "sdpa")
    assert candidates(shape(), (HOPPER,), packed_tokens=None) == (FOUR, THREE, TWO, "sdpa")
    assert candidates(shape(head_dim=256), (AMPERE,), packed_tokens=8192) == (TWO, "flex_attention", "sdpa")
    assert candidates(shape(), (), packed_tokens=8192) == ("sdpa",)
    assert candidates(shape(model_type="opt", ffn_dim=512), (HOPPER,), packed_tokens=8192) == ("sdpa",)
    capped = shape(model_type="gemma2", attn_logit_softcapping=50.0)
    assert candidates(capped, (HOPPER,), packed_tokens=8192) == ("eager",)
    installed()
    assert candidates(shape(), (AMPERE,), packed_tokens=8192) == ("flex_attention", "sdpa")
    assert candidates(shape(), (TURING,), packed_tokens=8192) == ("sdpa",)


QWEN = ("hardware=gpu", "model=qwen-0.6b", "data.max_length_tokens=8192")


def test_where_several_kernels_compute_a_run_the_plan_says_that_it_measures_them(
    installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (HOPPER,))
    installed(TWO)
    spec = spec_of(Request(overrides=QWEN))
    assert spec.attention_candidates == (TWO, "flex_attention", "sdpa")
    (note,) = [each for each in spec.notes if each.key == "model.attn_implementation"]
    assert note.value == spec.model.attn_implementation == TWO
    assert "the run measures it beside flex_attention and sdpa, and takes the fastest" in note.why
    on_cpu = spec_of(Request(overrides=("hardware=cpu", *QWEN[1:])))
    assert (on_cpu.model.attn_implementation, on_cpu.attention_candidates) == ("sdpa", ())


@pytest.mark.parametrize(
    "words",
    [
        ("model.attn_implementation=sdpa",),  # who names a kernel gets it
        (f"model.attn_implementation={TWO}",),
        ("method=grpo", "data.path=builtin:prompts"),  # most of whose time goes into answers
        ("data.streaming=true", "train.max_steps=9", "data.eval_share=0"),
        ("peft=prompt",),  # whose vectors stand before each row
    ],
    ids=["sdpa", "flash", "samples", "stream", "prompt"],
)
def test_a_kernel_is_not_measured_where_it_was_named_or_the_rows_of_a_pass_are_unknown(
    words: tuple[str, ...], installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (HOPPER,))
    installed(TWO)
    spec = spec_of(Request(overrides=(*QWEN, *words)))
    assert spec.attention_candidates == ()
    assert not [note for note in spec.notes if "measures" in note.why]


def test_a_model_that_computes_in_float32_gets_no_flash_attention(
    installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (HOPPER,))
    installed(TWO)
    whole = ("hardware=gpu", "model=qwen-0.6b", "model.dtype=float32")
    spec = spec_of(Request(overrides=(*whole, "train.bf16=false")))
    assert (spec.model.attn_implementation, spec.compute_dtype) == ("sdpa", "float32")
    (note,) = [each for each in spec.notes if each.key == "model.attn_implementation"]
    assert note.why == "torch's fused attention; flash attention does not compute in float32"
    assert spec_of(Request(overrides=whole)).model.attn_implementation == TWO  # which computes in bfloat16
    (found,) = problems(*whole, "train.bf16=false", f"model.attn_implementation={TWO}")
    assert "computes in bfloat16 or float16, and this run in float32" in found
    long = (*whole, "train.bf16=false", "data.max_length_tokens=8192")
    assert spec_of(Request(overrides=long)).attention_candidates == ("flex_attention", "sdpa")


def problems(*overrides: str) -> list[str]:
    try:
        spec_of(Request(overrides=overrides))
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_a_kernel_that_is_not_installed_is_refused_and_never_fetched_from_the_hub(
    installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (HOPPER,))
    installed()
    for name, kernel in FLASH.items():
        (found,) = problems("hardware=gpu", f"model.attn_implementation={name}")
        assert f"needs the package {kernel.distribution}, which is not installed" in found
        assert "--trust-remote-code" in found
    installed(*ALL)
    assert problems("hardware=gpu", f"model.attn_implementation={THREE}") == []
    (found,) = problems("hardware=cpu", f"model.attn_implementation={TWO}")
    assert "runs on a GPU" in found
    monkeypatch.setattr(hardware, "gpus", lambda: (TURING,))
    (found,) = problems("hardware=gpu", f"model.attn_implementation={TWO}")
    assert "does not run on T4 (compute capability 7.5)" in found


def test_what_a_gpu_multiplies_and_reads_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (HOPPER,))
    spec = spec_of(Request(overrides=("hardware=gpu",)))
    notes = {note.key: note.value for note in spec.notes}
    assert (spec.train["tf32"], spec.train["dataloader_pin_memory"]) == (True, True)
    assert (notes["train.tf32"], notes["train.dataloader_pin_memory"], notes["train.torch_compile"]) == (
        True, True, False,
    )  # fmt: skip
    monkeypatch.setattr(rotary_angles, "exact_under_tf32", lambda: False)
    earlier = spec_of(Request(overrides=("hardware=gpu",)))
    assert earlier.train["tf32"] is False
    assert next(note.why for note in earlier.notes if note.key == "train.tf32").startswith("it would round positions")
    exact = spec_of(Request(overrides=("hardware=gpu", "train.bf16=false", "model.dtype=float32")))
    assert "tf32" not in exact.train  # who wants float32 gets all of its bits
    monkeypatch.setattr(hardware, "gpus", lambda: (TURING,))
    assert "tf32" not in spec_of(Request(overrides=("hardware=gpu",))).train
    on_cpu = spec_of(Request(overrides=("hardware=cpu",)))
    assert not {"tf32", "dataloader_pin_memory"} & on_cpu.train.keys()
