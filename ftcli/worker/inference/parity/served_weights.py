"""Which weights an answer comes from: how likely its tokens are by a run's model, and by what may be served instead.

A served model differs from the trained one by how its weights were rounded, by an adapter that was left out or is an
older one, or by another base. Each has a size that can be measured on the same tokens, so a server's log-probabilities
are compared with all of them. Where it gives none, the greedy choice itself is what is known of it: by how many nats
the token that it took is less likely than the best one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ftcli.core.errors import ConfigError
from ftcli.models.sources import resolved_source
from ftcli.runs import checkpoints, rundir
from ftcli.settings.groups import as_saved
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.models.load import load_model, load_trained
from ftcli.worker.tokenise.encoder import Ids
from ftcli.worker.tuners.adapter_tensors import merged

Pairs = Sequence[tuple[Ids, Ids]]
"""The tokens of each prompt, and those of its answer."""
Given = Sequence[list[float | None] | None]
"""The log-probabilities in nats that a server gave of each answer's tokens."""
MOST_CHECKPOINTS = 4
"""The newest ones, each of which is loaded."""
BASE = "the model before training"
_BLOCK = 32
"""Weights that share a scale in llama.cpp's q8_0 and q4_0."""
_LEVELS = {"8-bit": 127, "4-bit": 7}
_ROWS = 256
"""Rows of the token embeddings that are compared: another base differs in each."""


def scored(model: Any, pairs: Pairs, given: Given) -> dict[str, Any]:
    """How far a model is from what was served.

    Returns:
        {"mean" and "largest": of the differences to the given log-probabilities, else of the regrets; "regret": the
        largest one, in nats; "tokens"; "first": of each answer the place and regret of its first token that is not the
        model's own choice, or None}.
    """
    differences, first, regret, tokens = list[float](), list[tuple[int, float] | None](), 0.0, 0
    for (prompt, answer), logps in zip(pairs, given, strict=True):
        if not answer or not prompt:
            first.append(None)
            continue
        own = _log_softmax(model, prompt, answer)
        taken = own[torch.arange(len(answer)), torch.tensor(answer)]
        regrets = (own.max(-1).values - taken).tolist()
        first.append(next(((i, value) for i, value in enumerate(regrets) if value > 0), None))
        regret, tokens = max(regret, *regrets), tokens + len(answer)
        differences += (
            regrets
            if logps is None
            else [abs(a - b) for a, b in zip(taken.tolist(), logps, strict=True) if b is not None]
        )
    mean = sum(differences) / len(differences) if differences else 0.0
    return {
        "mean": mean, "largest": max(differences, default=0.0), "regret": regret, "tokens": tokens, "first": first
    }  # fmt: skip


def candidates(
    model: Any, spec: RunSpec, run: Path, device: str, pairs: Pairs, given: Given
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What else may be served, by name, each scored. The model is of no use afterwards."""
    yield from _rounded(model, run, spec, pairs, given)
    del model
    how: dict[str, Any] = {"seed": spec.seed, "device": device, "quantisation": spec.quantisation}

    def on_device(found: Any) -> Any:
        return found if spec.quantisation.type != "none" else found.to(device)

    with suppress(ConfigError):  # as where the base is gone
        yield BASE, scored(on_device(load_model(spec.model, **how)), pairs, given)
    for path in checkpoints.sealed(run / rundir.CHECKPOINTS)[-MOST_CHECKPOINTS:]:
        with suppress(ConfigError, OSError):  # of a sharded run, or one that is damaged
            older = load_trained(as_saved(spec.model, str(path)), **how)
            yield path.name, scored(on_device(older), pairs, given)


def _rounded(model: Any, run: Path, spec: RunSpec, pairs: Pairs, given: Given) -> Iterator[tuple[str, dict[str, Any]]]:
    """The trained weights as other types hold them, with how far those are from the trained ones ("own")."""
    if spec.quantisation.type != "none":
        return
    if hasattr(model, "peft_config"):
        try:
            model = merged(model, str(run), "")
        except (ConfigError, ValueError, NotImplementedError):  # prompt learning, and what cannot be merged
            return
    own = [answer_logps(model, pair) for pair in pairs]
    for name in ("16-bit", *_LEVELS):
        other = copy.deepcopy(model)
        if name == "16-bit":
            other = other.to(torch.bfloat16)
        else:
            round_weights(other, _LEVELS[name])
        found = scored(other, pairs, given)
        found["own"] = scored(other, pairs, own)["mean"]
        yield name, found
        del other


def answer_logps(model: Any, pair: tuple[Ids, Ids]) -> list[float | None]:
    """The log-probability in nats of each token of an answer."""
    prompt, answer = pair
    if not prompt or not answer:
        return []
    places = torch.arange(len(answer)), torch.tensor(answer)
    found: list[float | None] = _log_softmax(model, prompt, answer)[places].tolist()
    return found


def _log_softmax(model: Any, prompt: Ids, answer: Ids) -> Tensor:
    """The log-probabilities before each token of an answer, of shape (answer, vocabulary); one row at a time, since a
    padded batch computes otherwise."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    found: Tensor = logits[0, -len(answer) - 1 : -1].float().cpu().log_softmax(-1)
    return found


def round_weights(model: Any, levels: int) -> None:
    """Round the weights of linear layers, in blocks of a row that share a scale."""
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear) or module.weight.shape[1] % _BLOCK:
            continue
        blocks = module.weight.data.float().reshape(-1, _BLOCK)
        scale = blocks.abs().amax(1, keepdim=True) / levels
        rounded = (blocks / scale.clamp(min=1e-12)).round().clamp(-levels, levels) * scale
        module.weight.data = rounded.reshape(module.weight.shape).to(module.weight.dtype)


# --- the token embeddings, which most adapters leave as they are ------------------------------------------------------


def embedding_difference(model: Any, place: Mapping[str, Any] | None) -> float | None:
    """By how much the token embeddings of a file differ from the model's, as a share of their size; None where that is
    not known.

    Args:
        place: {"file", "offset", "type": F32, F16, BF16 or Q8_0} of a GGUF, or {"values": the first rows}; or None.
    """
    if place is None:
        return None
    own = model.get_input_embeddings().weight.detach()[:_ROWS].float().cpu()
    theirs = torch.tensor(place["values"]) if "values" in place else _stored(place, own.shape[0], own.shape[1])
    if theirs is None or theirs.shape[1] != own.shape[1]:
        return None
    rows = min(len(own), len(theirs))
    return float((own[:rows] - theirs[:rows]).norm() / own[:rows].norm().clamp(min=1e-12))


def _stored(place: Mapping[str, Any], rows: int, width: int) -> Tensor | None:
    """The first rows of a matrix in a GGUF."""
    kind, offset = str(place["type"]), int(place["offset"])
    if kind == "Q8_0":
        if width % _BLOCK:
            return None
        block = np.dtype([("scale", "<f2"), ("values", "i1", (_BLOCK,))])
        raw = np.fromfile(place["file"], block, rows * width // _BLOCK, offset=offset)
        return torch.tensor(raw["scale"].astype(np.float32)[:, None] * raw["values"]).reshape(-1, width)
    types = {"F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2)}
    if kind not in types:
        return None
    flat = np.fromfile(place["file"], types[kind][0], rows * width, offset=offset)
    if kind == "BF16":
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return torch.tensor(flat.astype(np.float32)).reshape(-1, width)


def rows_of(model: Any) -> list[list[float]]:
    """The first rows of a model's token embeddings, to compare them with another's."""
    found: list[list[float]] = model.get_input_embeddings().weight.detach()[:_ROWS].float().cpu().tolist()
    return found


def model_of(folder: str) -> Any:
    """The model in a folder, in the type that it is stored in."""
    from ftcli.settings.groups import ModelSettings

    settings = ModelSettings(name_or_path=resolved_source(folder).location)
    return load_trained(settings, seed=0, device="cpu", as_stored=True)
