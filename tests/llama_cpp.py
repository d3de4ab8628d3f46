"""llama.cpp's programs, and answers of its server beside those of a model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ftcli.endpoints.address import Address
from tests.conftest import REPOSITORY

BUILT = REPOSITORY / "build" / "llama_cpp" / "bin"
"""Where `make llama-quantize` and `make llama-server` put them."""

EXACT = (
    *("--ctx-size", "1024", "--n-gpu-layers", "0", "--threads", "1"),
    *("--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"),
)
"""Computing as transformers does, as far as llama.cpp can."""


def program(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A program of llama.cpp, which stands on PATH from here on; skips where there is none."""
    monkeypatch.setenv("PATH", str(BUILT), prepend=os.pathsep)
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on PATH: make {name}")
    return found


def greedy(server: Address, ids: Sequence[int], count: int) -> list[int]:
    """The likeliest tokens after a prompt, the end token aside."""
    body = {"prompt": list(ids), "n_predict": count, "temperature": 0, "return_tokens": True, "cache_prompt": False}
    return list(server.post("/completion", {**body, "samplers": ["temperature"], "seed": 1})["tokens"])


def greedy_pairs(
    server: Address, model: Any, prompts: Sequence[Sequence[int]], count: int, *, end: int
) -> Iterator[tuple[bool, float]]:
    """For each prompt whether the likeliest tokens of a server and of a model part, and there the distance of the two
    in the model's logits."""
    import torch

    how: dict[str, Any] = {"do_sample": False, "max_new_tokens": count, "eos_token_id": end, "pad_token_id": end}
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), output_logits=True, return_dict_in_generate=True, **how
        )
        ours, theirs = found.sequences[0, len(prompt) :].tolist(), greedy(server, prompt, count)
        theirs += [end] * (len(ours) - len(theirs))
        parting = next((i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)
        logits = found.logits[parting][0].float() if parting is not None else None
        gap = 0.0 if logits is None else float(logits[ours[parting]] - logits[theirs[parting]])
        yield parting is not None, gap
