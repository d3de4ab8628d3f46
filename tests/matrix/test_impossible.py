"""What the matrix refuses, refused with cause: each pair is a library call that fails, a definition, or mathematics.

A strict xfail is an alarm: should an upgrade of a library mend it, the test fails and our refusal can go.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    MultitaskPromptTuningConfig,
    PolyConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    XLoraConfig,
    get_peft_model,
)
from peft.tuners.adamss import AdamssConfig
from peft.utils.integrations import dequantize_module_weight
from transformers import Trainer, TrainingArguments

from ftcli.peft_methods import PEFT_METHODS
from ftcli.peft_methods.other import IMPOSSIBLE
from ftcli.peft_methods.peft_declaration import FOUR_BITS
from ftcli.settings.groups import ModelSettings, QuantisationSettings
from ftcli.tiny import MODEL_DIR
from ftcli.worker.models.load import load_model
from ftcli.worker.tuners.bottleneck import BottleneckConfig, BottleneckLayer
from tests.matrix.cells import CELLS, METHODS, OTHER_CELLS, PEFTS, QUANTISATIONS, Cell
from tests.matrix.prove import refusal

QUANTISED = [kind for kind in QUANTISATIONS if kind != "none"]
IDS = torch.arange(5, 29)[None]
# How each refused pair is held, by the choice of its adapter: the test below and the quantisations that it is about.
HELD = {
    "none": ("test_full_fine_tuning_of_quantised_weights", QUANTISED),
    "freeze": ("test_training_some_layers_of_a_quantised_base", QUANTISED),
    "pissa": ("test_a_start_from_the_singular_vectors_of_quantised_weights", QUANTISED),
    "pissa peft.init_lora_weights=pissa_niter_4": (
        "test_a_start_from_the_singular_vectors_of_quantised_weights",
        QUANTISED,
    ),
    "lora peft.init_lora_weights=olora": ("test_what_was_taken_out_of_quantised_weights_has_no_low_rank", QUANTISED),
    "qlora": ("test_qlora_is_defined_on_four_bits", ["none", "int8"]),
}


def base(quantisation: str = "none", **more: Any) -> Any:
    """The small model, quantised."""
    settings = QuantisationSettings(type=quantisation, compute_dtype="float32")
    return load_model(ModelSettings(name_or_path=str(MODEL_DIR), **more), seed=1, device="cpu", quantisation=settings)


def a_step(model: Any) -> None:
    """Forward with a loss, and backward."""
    model.train()
    model(input_ids=IDS, labels=IDS).loss.backward()


def pairs() -> list[Cell]:
    """Each adapter on each base, in every method under `make matrix` and otherwise in one: methods take turns."""
    if os.environ.get("FTCLI_MATRIX"):
        return CELLS
    found = [(peft, kind) for peft in PEFTS for kind in QUANTISATIONS]
    return [Cell(METHODS[(index + index // len(METHODS)) % len(METHODS)], *pair) for index, pair in enumerate(found)]


def test_every_refused_cell_is_held_here(tmp_path: Path) -> None:
    refused = {(cell.peft, cell.quantisation) for cell in pairs() if refusal(cell, tmp_path)}
    assert refused == {(peft, kind) for peft, (_, kinds) in HELD.items() for kind in kinds}
    assert {name for name, _ in HELD.values()} <= globals().keys()
    others = {cell.peft.split("peft.type=")[1].split()[0] for cell in OTHER_CELLS if refusal(cell, tmp_path)}
    assert others - {"ADAMSS"} == {"TRAINABLE_TOKENS"}
    under_the_fused_loss = {"ADAPTION_PROMPT", "CPT"}  # tests/worker/training/test_traps.py
    assert set(IMPOSSIBLE) == {"XLORA", "POLY", "MULTITASK_PROMPT_TUNING"} | under_the_fused_loss


@pytest.mark.parametrize("quantisation", QUANTISED)
@pytest.mark.xfail(strict=True, raises=ValueError, reason="the trainer refuses a model of quantised weights alone")
def test_full_fine_tuning_of_quantised_weights(quantisation: str, tmp_path: Path) -> None:
    Trainer(model=base(quantisation), args=TrainingArguments(str(tmp_path)))


@pytest.mark.parametrize("quantisation", QUANTISED)
@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="integers have no gradient")
def test_training_some_layers_of_a_quantised_base(quantisation: str) -> None:
    base(quantisation).model.layers[-1].mlp.up_proj.weight.requires_grad_(True)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4"])
@pytest.mark.parametrize("quantisation", QUANTISED)
@pytest.mark.xfail(strict=True, raises=TypeError, reason="PEFT decomposes floating-point weights only")
def test_a_start_from_the_singular_vectors_of_quantised_weights(quantisation: str, start: str) -> None:
    get_peft_model(base(quantisation), LoraConfig(init_lora_weights=start, target_modules=["q_proj"]))


@pytest.mark.parametrize("quantisation", QUANTISED)
def test_what_was_taken_out_of_quantised_weights_has_no_low_rank(quantisation: str) -> None:
    """OLoRA puts back Q(W - BA), and Q(W) - Q(W - BA) is not BA: no adapter for the base that everyone has."""
    before, model, rank = base(quantisation), base(quantisation), 8
    get_peft_model(model, LoraConfig(r=rank, init_lora_weights="olora", target_modules=["q_proj"]))
    with torch.no_grad():
        whole = dequantize_module_weight(before.model.layers[0].self_attn.q_proj)
        rest = dequantize_module_weight(model.model.layers[0].self_attn.q_proj.base_layer)
    singular = torch.linalg.svdvals((whole - rest).float())
    assert int((singular > 1e-3 * singular[0]).sum()) > 2 * rank, "a plain adapter of twice the rank would hold it"


def test_qlora_is_defined_on_four_bits() -> None:
    """Dettmers et al. 2023, section 3: the base is in 4-bit NormalFloat. Without, it is LoRA."""
    assert PEFT_METHODS["qlora"].quantisations == FOUR_BITS
    layers = [type(base(kind).model.layers[0].mlp.up_proj).__name__ for kind in (*FOUR_BITS, "none", "int8")]
    assert layers == ["Linear4bit"] * 3 + ["Linear", "Linear8bitLt"]


PROMPTS = {
    "prompt": PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "p_tuning": PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=8, task_type="CAUSAL_LM"),
    "prefix": PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.xfail(strict=True, raises=AttributeError, reason="PEFT has no merge of what stands before the input")
def test_merging_a_prompt(kind: str) -> None:
    get_peft_model(base(), PROMPTS[kind]).merge_and_unload()


def test_no_matrix_does_what_a_bottleneck_does() -> None:
    """What one weight and one bias do has f(a) + f(b) = f(a + b) + f(0)."""
    model = get_peft_model(base(), BottleneckConfig(init_weights=False, task_type="CAUSAL_LM"))
    layer = next(module for module in model.modules() if isinstance(module, BottleneckLayer))
    a, b = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(1))

    def bend() -> float:
        with torch.no_grad():
            return float((layer(a) + layer(b) - layer(a + b) - layer(torch.zeros_like(a))).abs().max())

    assert bend() > 1e-2
    with model.disable_adapter():
        assert bend() < 1e-5


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the tied head reads the embedding, not the tuner")
def test_tokens_trained_alone_reach_the_fused_loss_of_a_tied_head() -> None:
    model = get_peft_model(base(), TrainableTokensConfig(token_indices=[5, 6, 7], task_type="CAUSAL_LM"))
    head = model.get_base_model().get_output_embeddings()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
        states = torch.randn(1, head.weight.shape[1])
        assert torch.allclose(head(states), states @ head.weight.T), "what the fused loss multiplies with"


@pytest.mark.skipif(find_spec("sklearn") is not None, reason="scikit-learn is here, and peft=other takes ADAMSS")
@pytest.mark.xfail(strict=True, raises=ImportError, reason="its tuner clusters with scikit-learn")
def test_adamss_without_scikit_learn() -> None:
    get_peft_model(base(), AdamssConfig(target_modules=["q_proj"]))


@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="without adapters to mix its weights reach no output")
def test_xlora_without_trained_adapters() -> None:
    model = base()
    model.config.use_cache = False  # which it asks for before anything else
    a_step(get_peft_model(model, XLoraConfig(hidden_size=160, adapters={}, task_type="CAUSAL_LM")))


@pytest.mark.parametrize(
    "config",
    [
        PolyConfig(target_modules=["q_proj"], n_tasks=2, n_skills=2, task_type="CAUSAL_LM"),
        MultitaskPromptTuningConfig(num_virtual_tokens=4, num_tasks=2, task_type="CAUSAL_LM"),
    ],
    ids=["poly", "multitask"],
)
@pytest.mark.xfail(strict=True, raises=ValueError, reason="which task a row is of stands in no row")
def test_a_tuner_by_task_without_task_ids(config: Any) -> None:
    a_step(get_peft_model(base(), config))
