"""A stand-in for vLLM, which takes what vLLM takes and nothing else, and computes with transformers.

As a module it is the worker with the stand-in in vLLM's place, for runs of several processes:

    torchrun --nproc_per_node=2 -m tests.standin_vllm train RUN

RUN/engine-RANK.pt then has the weights that the engine of each process received, a mapping for each time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from trl.generation import vllm_generation
from trl.trainer import distillation_trainer

from ftcli.worker.distributed.sharded import whole_weights


@dataclass(kw_only=True)
class Params:
    """The sampling parameters of vLLM that TRL or ftcli sets."""

    n: int = 1
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 16
    logprobs: int | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    presence_penalty: float = 0.0


class Engine:
    """A vLLM engine that computes with transformers: the model of its folder, in its type, drawing by its seed."""

    made: list[Engine]

    def __init__(
        self, *, model: str, dtype: str, seed: int, max_model_len: int, max_num_seqs: int, tensor_parallel_size: int,
        gpu_memory_utilization: float, enable_sleep_mode: bool, model_impl: str, distributed_executor_backend: str,
        max_num_batched_tokens: int, logprobs_mode: str, quantization: str | None, trust_remote_code: bool,
    ) -> None:  # fmt: skip
        self.how = {key: value for key, value in locals().items() if key != "self"}
        with whole_weights():  # under ZeRO-3 everything that is loaded would be sharded
            self.policy = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.draws, self.received, self.params = torch.Generator().manual_seed(seed), list[str](), Params()
        runner = SimpleNamespace(model=self)
        worker = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
        self.llm_engine = SimpleNamespace(model_executor=worker)
        type(self).made.append(self)

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        """Take weights by the names of the stored model; no others, and none of another form."""
        own = dict(self.policy.named_parameters())
        for name, value in weights:
            assert own[name].shape == value.shape, name
            own[name].data.copy_(value)
            self.received.append(name)

    def reset_prefix_cache(self) -> None:
        """Nothing: no prefix is kept."""

    @torch.no_grad()
    def generate(self, prompts: Any, sampling_params: Params, use_tqdm: bool) -> list[Any]:
        """An answer to each prompt, token by token."""
        self.params = sampling_params
        return [self._answer(each["prompt_token_ids"], sampling_params) for each in prompts]

    def _answer(self, ids: list[int], how: Params) -> Any:
        assert len(ids) + how.max_tokens <= self.how["max_model_len"]
        said, logprobs = list[int](), list[Any]()
        while len(said) < how.max_tokens and not set(said) & set(how.stop_token_ids):
            logits = self.policy(torch.tensor([[*ids, *said]])).logits[0, -1].float()
            chances = torch.log_softmax(logits / how.temperature, dim=-1)
            token = int(torch.multinomial(chances.exp(), 1, generator=self.draws))
            said.append(token)
            logprobs.append({token: SimpleNamespace(rank=1, logprob=float(chances[token]))})
        answer = SimpleNamespace(token_ids=said, logprobs=logprobs if how.logprobs is not None else None)
        return SimpleNamespace(prompt_token_ids=ids, outputs=[answer])


def install(put: Callable[..., Any] = setattr, engine: type[Engine] = Engine) -> None:
    """Put the stand-in where TRL imports vLLM."""
    engine.made = []
    for module in (vllm_generation, distillation_trainer):
        put(module, "is_vllm_available", lambda: True)
    put(vllm_generation, "LLM", engine)
    put(vllm_generation, "SamplingParams", Params)


class Kept(Engine):
    """Keeps the weights of each time that it received them."""

    def __init__(self, **how: Any) -> None:
        self.times: list[dict[str, torch.Tensor]] = []
        super().__init__(**how)

    def reset_prefix_cache(self) -> None:
        """Called when all weights are there."""
        self.times.append({name: each.detach().clone() for name, each in self.policy.named_parameters()})


if __name__ == "__main__":
    from ftcli.worker.__main__ import leave, main

    install(engine=Kept)
    code = main(sys.argv[1:])
    if code == 0:
        [kept] = Kept.made
        torch.save(kept.times, Path(sys.argv[2]) / f"engine-{os.environ.get('RANK', '0')}.pt")  # type: ignore[attr-defined]
    leave(code, sys.argv[1:])
