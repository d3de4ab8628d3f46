"""Generation of a rollout's answers: with transformers, in batches or continuously, or with vLLM.

The options have the names of GRPO's, so `method.use_vllm` means the same for each method. vLLM has its own random
generator, which no checkpoint holds: a run with it can be resumed, but not bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from ftcli.worker.distributed.sharded import whole_model
from ftcli.worker.inference.sampling import Sampled, generation_config, sample, stop_ids, until_end
from ftcli.worker.trainers.unpadded import plain

PAGE_TOKENS = 64
"""Tokens of one answer whose keys and values continuous batching stores together."""
MOST_TOKENS_A_PASS = 8192


@dataclass
class GenerationFields:
    """How answers are generated, under the names of TRL's configs."""

    use_transformers_continuous_batching: bool = False
    """Generate without padding, freeing a slot as soon as an answer ends (transformers' generate_batch); for many
    answers of unequal length on a GPU."""
    use_vllm: bool = False
    """Generate with vLLM, which has to be installed; its random state is not in a checkpoint."""
    vllm_mode: str = "colocate"
    """colocate (vLLM in the training processes) or server (`trl vllm-serve` elsewhere)."""
    vllm_server_base_url: str | None = None
    """Address of the server."""
    vllm_server_timeout: float = 240.0
    """Seconds to wait for it."""
    vllm_group_port: int = 51216
    """Port over which it receives weights."""
    vllm_gpu_memory_utilization: float = 0.3
    """Share of the GPU's memory that a colocated vLLM takes."""
    vllm_max_model_length: int | None = None
    """Longest prompt plus answer in tokens; null is the model's limit."""
    vllm_tensor_parallel_size: int = 1
    """Processes that share a colocated vLLM's model."""
    vllm_enable_sleep_mode: bool = False
    """Free a colocated vLLM's memory while the policy trains."""


def make_answerer(trainer: Any) -> Batched:
    """The generator of answers that a trainer's arguments select."""
    args = trainer.args
    kind = Vllm if args.use_vllm else Continuous if args.use_transformers_continuous_batching else Batched
    return kind(trainer)


class Batched:
    """Transformers' generate, padded on the left."""

    def __init__(self, trainer: Any) -> None:
        """
        Args:
            trainer: has an accelerator, a tokenizer, and arguments with GenerationFields and the sampling options.
        """
        self.trainer, self.args, self.tokenizer = trainer, trainer.args, trainer.tokenizer

    def __call__(self, model: Any, rows: Sequence[dict[str, Any]]) -> list[Sampled]:
        """An answer to each row's prompt.

        Args:
            model: the policy as wrapped by the Trainer.
        """
        with whole_model(self.trainer, model) as policy:
            training = policy.training
            policy.eval()
            try:
                return self._answers(policy, rows)
            finally:
                policy.train(training)

    def _answers(self, policy: Any, rows: Sequence[dict[str, Any]]) -> list[Sampled]:
        args = self.args
        return sample(
            policy,
            self.tokenizer,
            rows,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_p=args.top_p,
            batch_size=args.generation_batch_size,
        )

    def _sampled(self, policy: Any, rows: Sequence[dict[str, Any]], answers: Sequence[Sequence[int]]) -> list[Sampled]:
        ends = stop_ids(policy, self.tokenizer)
        cut = [until_end(list(answer), ends) for answer in answers]
        return [
            Sampled(list(row["prompt_ids"]), ids, row["row"], ended)
            for row, (ids, ended) in zip(rows, cut, strict=True)
        ]


class Continuous(Batched):
    """Transformers' generate_batch: no padding, and the next prompt starts as soon as an answer ends."""

    def _answers(self, policy: Any, rows: Sequence[dict[str, Any]]) -> list[Sampled]:
        args = self.args
        how = generation_config(
            policy,
            self.tokenizer,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=0,
        )
        with torch.no_grad(), plain(policy):
            outputs = policy.generate_batch(
                [list(row["prompt_ids"]) for row in rows],
                generation_config=how,
                continuous_batching_config=cache_for([len(row["prompt_ids"]) for row in rows], args.max_new_tokens),
                progress_bar=False,
            )
        # Answers arrive in the order in which they end; the number in a request's name is its prompt's index.
        names = sorted(outputs, key=lambda name: int(name.split("_")[-1]))
        answers = [outputs[name].generated_tokens for name in names]
        return self._sampled(policy, rows, answers)


def cache_for(prompt_lengths: Sequence[int], max_new_tokens: int) -> ContinuousBatchingConfig:
    """A cache that holds every answer of a rollout at once, and no more.

    Without a size it takes up to nine tenths of the free memory, of which training needs its part.
    """
    pages = sum(math.ceil((length + max_new_tokens) / PAGE_TOKENS) for length in prompt_lengths)
    return ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=pages + 1,
        max_batch_tokens=min(MOST_TOKENS_A_PASS, max(PAGE_TOKENS, sum(prompt_lengths))),
    )


class Vllm(Batched):
    """vLLM, which receives the policy's weights before each rollout."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        from trl.generation.vllm_generation import VLLMGeneration  # imports vLLM where it is installed

        args = self.args
        self.engine = VLLMGeneration(
            model=trainer.model,
            accelerator=trainer.accelerator,
            processing_class=self.tokenizer,
            mode=args.vllm_mode,
            server_base_url=args.vllm_server_base_url,
            server_timeout=args.vllm_server_timeout,
            group_port=args.vllm_group_port,
            tensor_parallel_size=args.vllm_tensor_parallel_size,
            gpu_memory_utilization=args.vllm_gpu_memory_utilization,
            max_model_length=args.vllm_max_model_length,
            max_num_seqs=trainer.rollout_size * args.vllm_tensor_parallel_size,
            enable_sleep_mode=args.vllm_enable_sleep_mode,
            temperature=args.temperature,
            top_p=args.top_p,
            max_completion_length=args.max_new_tokens,
            generation_kwargs={"stop_token_ids": stop_ids(trainer.model, self.tokenizer)},
            logprobs=None,  # the policy's own are computed together with the reference's
        )
        self._synced = -1

    def __call__(self, model: Any, rows: Sequence[dict[str, Any]]) -> list[Sampled]:
        """As its parent."""
        step = self.trainer.state.global_step
        if step != self._synced:
            self.engine.sync_weights()
            self._synced = step
        prompts = [list(row["prompt_ids"]) for row in rows]
        _, answers, *_ = self.engine.generate(prompts=prompts, images=None, num_generations=1)
        return self._sampled(self.trainer.model, rows, answers)
