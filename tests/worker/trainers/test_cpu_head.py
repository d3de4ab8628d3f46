"""The output head on a CPU gives what plain logits and autograd give, and what TRL's own function does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils

from ftcli.worker.trainers import cpu_head

TOKENS, HIDDEN, WORDS = 37, 8, 50
FIELDS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
HEADS: dict[str, dict[str, Any]] = {
    "frozen": {},
    "trained": {"trains": True},
    "trained with a bias": {"trains": True, "bias": True},
    "frozen with a bias": {"bias": True},
    "a trained bias alone": {"bias": True, "trains_bias": True},
    "scaled and heated": {"temperature": 0.7, "scale": 0.25},
    "capped": {"softcap": 3.0, "temperature": 1.3, "scale": 2.0},
    "capped and trained": {"softcap": 3.0, "temperature": 1.3, "scale": 2.0, "trains": True},
}


def inputs(*, trains: bool = False, bias: bool = False, trains_bias: bool = False, **_: Any) -> list[Any]:
    made = torch.Generator().manual_seed(3)
    hidden = torch.randn(TOKENS, HIDDEN, generator=made, requires_grad=True)
    weight = torch.randn(WORDS, HIDDEN, generator=made).requires_grad_(trains)
    own = torch.randn(WORDS, generator=made).requires_grad_(trains_bias or trains) if bias else None
    return [hidden, weight, own, torch.randint(0, WORDS, (TOKENS,), generator=made)]


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: dict[str, Any]) -> list[Tensor]:
    """The statistics from whole logits, by autograd, in float64."""
    product = hidden.double() @ weight.double().t()
    logits = (product if bias is None else product + bias.double()) * how.get("scale", 1.0)
    if cap := how.get("softcap"):
        logits = cap * torch.tanh(logits / cap)
    logits = logits / how.get("temperature", 1.0)
    logs = logits.log_softmax(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    found = [logs.gather(-1, targets[:, None])[:, 0], entropy, (2 * logs).logsumexp(-1), logits.mean(-1)]
    return [*found, logits.argmax(-1) == targets]


def called(function: Any, given: list[Any], how: dict[str, Any], outputs: tuple[str, ...] = FIELDS) -> Any:
    further = (how.get("temperature", 1.0), 32, how.get("softcap"), how.get("scale", 1.0), outputs)
    return function.apply(*given, *further)


@pytest.mark.parametrize("entropy_too", [False, True], ids=["", "entropy trained too"])
@pytest.mark.parametrize("kept", [cpu_head.KEPT_BYTES, 0], ids=["kept", "again"])
@pytest.mark.parametrize("tile", [cpu_head.TILE_BYTES, 4 * WORDS * 5], ids=["one tile", "eight tiles"])
@pytest.mark.parametrize("name", HEADS)
def test_statistics_and_gradients_are_those_of_plain_logits(
    name: str, tile: int, kept: int, entropy_too: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cpu_head, "TILE_BYTES", tile)
    monkeypatch.setattr(cpu_head, "KEPT_BYTES", kept)
    how = HEADS[name]
    weights = torch.randn(2, TOKENS, generator=torch.Generator().manual_seed(5))
    gradients = []
    results = []
    for run in (called, lambda _, given, how: plain(*given, how)):
        given = inputs(**how)
        found = run(cpu_head.TokenLogProbs, given, how)
        results.append(found)
        (found[0] * weights[0] + (found[1] * weights[1] if entropy_too else 0)).sum().backward()
        gradients.append([each.grad for each in given[:3] if each is not None and each.requires_grad])
    for own, other in zip(results[0][:4], results[1][:4], strict=True):
        assert torch.allclose(own.double(), other, atol=2e-5)
    assert torch.equal(results[0][4], results[1][4])
    assert len(gradients[0]) == len(gradients[1])
    for own, other in zip(*gradients, strict=True):
        assert torch.allclose(own.double(), other.double(), atol=3e-5)


@pytest.mark.parametrize("trains", [False, True])
def test_half_precision_is_rounded_as_trl_rounds_it(trains: bool):
    found = {}
    for function in (cpu_head.TokenLogProbs, ChunkedLogProbFunction):
        given = [each.detach().bfloat16() if each is not None else None for each in inputs()[:2]]
        given[0].requires_grad_()
        given[1].requires_grad_(trains)
        log_probs = called(function, [*given, None, inputs()[3]], {}, outputs=())[0]
        log_probs.sum().backward()
        assert log_probs.dtype == torch.float32
        assert given[0].grad.dtype == torch.bfloat16
        found[function] = [log_probs.detach(), *(each.grad.float() for each in given if each.requires_grad)]
    for own, other in zip(*found.values(), strict=True):
        assert torch.allclose(own, other, atol=2e-2, rtol=2e-2)


def test_what_is_not_asked_for_is_none_and_a_batch_without_labels_is_zero():
    given = inputs()
    found = called(cpu_head.TokenLogProbs, [given[0][:0], *given[1:3], given[3][:0]], {}, outputs=("entropy",))
    assert [None if each is None else tuple(each.shape) for each in found] == [(0,), (0,), None, None, None]
    found[0].sum().backward()
    assert torch.equal(given[0].grad, torch.zeros(TOKENS, HIDDEN))


def test_a_frozen_head_keeps_no_more_than_hidden_states():
    given, kept = inputs(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.numel()) or each, lambda each: each):
        log_probs = called(cpu_head.TokenLogProbs, given, {})[0]
    assert max(kept) <= max(WORDS * HIDDEN, TOKENS * HIDDEN)
    _, _, derivatives, probabilities = log_probs.grad_fn.on_cpu
    assert tuple(derivatives.shape) == (TOKENS, HIDDEN)
    assert probabilities is None


def test_the_fused_heads_of_a_process_take_it():
    cpu_head.install()
    assert utils._ChunkedLogProbFunction is cpu_head.TokenLogProbs
    assert utils._use_triton(torch.device("cpu"))
    assert not utils._use_triton(torch.device("meta"))
