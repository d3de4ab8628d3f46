"""What ftcli says of attention kernels, held against the installed transformers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CONFIG_MAPPING, modeling_flash_attention_utils
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ftcli.models.attention_kernels import FLASH, FLASH_EXACTLY
from ftcli.settings.groups import ModelSettings
from ftcli.settings.ownership import ATTENTION
from ftcli.worker.models.load import as_granted


@pytest.mark.parametrize("model_type", sorted(FLASH_EXACTLY))
def test_an_architecture_that_gets_flash_or_flex_attention_supports_both(model_type: str) -> None:
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]]
    assert model._supports_flash_attn
    assert model._supports_flex_attn
    assert getattr(model, "_compatible_flash_implementations", None) is None  # which would choose another


def test_the_versions_of_flash_attention_are_those_that_transformers_calls_by_name() -> None:
    known = modeling_flash_attention_utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX
    assert {f"flash_attention_{number}" for number in known} == set(FLASH)
    assert set(FLASH) <= set(ATTENTION)
    for number, about in known.items():
        kernel = FLASH[f"flash_attention_{number}"]
        assert kernel.least >= (about.get("cuda_min_major_version", 0), 0)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_run_that_was_trained_with_a_kernel_that_is_not_here_answers_with_another(
    trusted: bool,
) -> None:
    request = {"trust_remote_code": trusted}
    for name in FLASH:
        found = as_granted(ModelSettings(attn_implementation=name), request)
        assert (found.attn_implementation, found.trust_remote_code) == ("auto", trusted)
    assert as_granted(ModelSettings(attn_implementation="eager"), request).attn_implementation == "eager"
    hub = as_granted(ModelSettings(attn_implementation="org/kernel"), request)
    assert hub.attn_implementation == ("org/kernel" if trusted else "auto")
