"""Planted into every contender alike: when each step ended, and the real tokens of its rows.

Python imports a module of this name at its start; the folder stands in PYTHONPATH. It waits for transformers' trainer,
which trains for every contender, and notes there what a step was given and when it ended, a line of JSON a step in the
file that WATCH_FILE names. No setting of a contender changes, and counting takes some microseconds a step.

WATCH_KEYS names the tensors of a batch that hold tokens, `NAME` or `NAME*TIMES`; padding is WATCH_PAD. With
WATCH_LEAK=1 the first batch is also computed with another first document, see `_leak`, and the process ends.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from typing import Any

_AWAITED = "transformers.trainer"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != _AWAITED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def executed(module: Any) -> None:
            execute(module)
            _plant(module)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def _plant(module: Any) -> None:
    step, step_end = module.Trainer.training_step, module.CallbackHandler.on_step_end
    counted = {"tokens": 0, "positions": 0, "batches": 0}

    def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if os.environ.get("WATCH_LEAK"):
            _write({"leak": _leak(self, model, inputs, lambda given: step(self, model, given, *args, **kwargs))})
            os._exit(0)
        tokens, positions = _real(inputs)
        counted["tokens"] += tokens
        counted["positions"] += positions
        counted["batches"] += 1
        return step(self, model, inputs, *args, **kwargs)

    def on_step_end(self: Any, *args: Any, **kwargs: Any) -> Any:
        _write({"at": time.monotonic(), **counted})
        counted.update(dict.fromkeys(counted, 0))
        return step_end(self, *args, **kwargs)

    module.Trainer.training_step = training_step
    module.CallbackHandler.on_step_end = on_step_end


def _real(inputs: Any) -> tuple[int, int]:
    """Tokens that are no padding, and all positions."""
    tokens = positions = 0
    for named in os.environ["WATCH_KEYS"].split(","):
        name, _, times = named.partition("*")
        if isinstance(inputs, dict) or hasattr(inputs, "keys"):
            ids = inputs.get(name)
            if ids is None:
                raise KeyError(f"a batch has no {name}, but {', '.join(inputs)}")
            tokens += int(times or 1) * int((ids != int(os.environ["WATCH_PAD"])).sum())
            positions += int(times or 1) * ids.numel()
    return tokens, positions


def _write(line: dict[str, Any]) -> None:
    rank = os.environ.get("RANK", "0")
    with open(f"{os.environ['WATCH_FILE']}.{rank}", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _leak(trainer: Any, model: Any, inputs: Any, compute: Any) -> dict[str, Any]:
    """How far the states of later documents move when only the first document of a packed row changes.

    States are those that the decoder's last norm gives to the head in the tool's own step, mask, positions and all. A
    document begins where WATCH_BEGIN says, a token and the one after it.
    """
    import torch

    first, second = (int(token) for token in os.environ["WATCH_BEGIN"].split(","))
    ids, pad = inputs["input_ids"], int(os.environ["WATCH_PAD"])
    flat = ids.flatten()
    begins = ((flat[:-1] == first) & (flat[1:] == second)).nonzero().flatten().tolist()
    row_ends = ids.size(1)
    if len(begins) < 2 or begins[1] >= row_ends:
        return {"documents": len(begins), "moved": None}
    start, end = begins[0] + 2, begins[1]
    changed = flat.clone()
    changed[start:end] = (flat[start:end] + 101) % 4000 + 16
    states: list[Any] = []
    norms = [each for name, each in model.named_modules() if name.endswith("model.norm")]
    hook = norms[-1].register_forward_hook(lambda _, __, out: states.append(out.detach().clone()))
    for row in (flat, changed):
        compute({**inputs, "input_ids": row.view_as(ids).clone()})
    hook.remove()
    before, after = states[0], states[-1]
    count = before.size(-1)
    before, after = before.reshape(-1, count), after.reshape(-1, count)
    kept = torch.arange(len(flat)) if len(before) == len(flat) else (flat != pad).nonzero().flatten()
    places = torch.arange(len(kept))
    later, own = (kept >= end) & (kept < row_ends), (kept >= start) & (kept < end)
    later &= flat[kept] != pad
    moved = (before - after).abs().amax(-1)
    return {
        "documents": len(begins),
        "moved": float(moved[places[later]].max()),
        "moved_itself": float(moved[places[own]].max()),
    }


if os.environ.get("WATCH_FILE"):
    sys.meta_path.insert(0, _Finder())
