"""Generation of a rollout's answers: with transformers, in batches or continuously, or with vLLM.

The options have the names of GRPO's, so `method.use_vllm` means the same for each method. What vLLM draws is in no
checkpoint: a run with it can be resumed, but not bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import get_device_and_memory_breakdown

from ftcli.worker.distributed.sharded import whole_model
from ftcli.worker.inference.fixed_draws import FixedDraws
from ftcli.worker.inference.sampling import Sampled, generation_config, sample, stop_ids, until_end
from ftcli.worker.process import interruption
from ftcli.worker.process.activity import phase
from ftcli.worker.trainers.rl import vllm_engine

_CACHE_FIELDS = {each.name for each in fields(ContinuousBatchingConfig)}
PAGE = "page_size" if "page_size" in _CACHE_FIELDS else "block_size"
"""The field for PAGE_TOKENS, which transformers 5.17 calls by its earlier name."""
PAGE_TOKENS = 64
"""Tokens of one answer whose keys and values continuous batching stores together."""
MOST_TOKENS_A_PASS = 8192
MOST_MEMORY = 0.5
"""Share of the free memory that continuous batching may take."""
_SIZES = {"num_blocks", "max_memory_percent"}


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
    """Longest prompt plus answer in tokens; null counts them in the rows."""
    vllm_tensor_parallel_size: int = 1
    """Processes that share a colocated vLLM's model."""
    vllm_enable_sleep_mode: bool = False
    """Free a colocated vLLM's memory while the policy trains."""


@contextmanager
def answering(trainer: Any) -> Iterator[None]:
    """Around the answers of a rollout and their rewards, in which a stop need not wait for the end of the step."""
    named = phase(f"answering prompts for step {trainer.state.global_step + 1}")
    with named, interruption.leavable(trainer.args.world_size == 1):
        yield


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

    def __call__(self, model: Any, rows: Sequence[dict[str, Any]], draws: FixedDraws | None = None) -> list[Sampled]:
        """An answer to each row's prompt.

        Args:
            model: the policy as wrapped by the Trainer.
            draws: the random numbers of each answer; by default torch's own.
        """
        with whole_model(self.trainer, model) as policy:
            training = policy.training
            policy.eval()
            try:
                return self._answers(policy, rows) if draws is None else self._drawn(policy, rows, draws)
            finally:
                policy.train(training)

    def _answers(self, policy: Any, rows: Sequence[dict[str, Any]]) -> list[Sampled]:
        return self._drawn(policy, rows, None)

    def _drawn(self, policy: Any, rows: Sequence[dict[str, Any]], draws: FixedDraws | None) -> list[Sampled]:
        """In batches, also where rollouts are generated continuously: that draws for all prompts together."""
        args, size = self.args, self.args.generation_batch_size
        if draws is not None:  # as many held-out answers as a rollout has, for which there is memory
            size = size or self.trainer.held_out_together or self.trainer.rollout_size
        return sample(
            policy,
            self.tokenizer,
            rows,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_p=args.top_p,
            batch_size=size,
            draws=draws,
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
        with torch.no_grad(), in_computed_type(policy, self.trainer.accelerator):
            outputs = policy.generate_batch(
                [list(row["prompt_ids"]) for row in rows],
                generation_config=how,
                continuous_batching_config=cache_for(
                    policy, [len(row["prompt_ids"]) for row in rows], args.max_new_tokens
                ),
                progress_bar=False,
            )
        # Answers arrive in the order in which they end; the number in a request's name is its prompt's index.
        names = sorted(outputs, key=lambda name: int(name.split("_")[-1]))
        answers = [outputs[name].generated_tokens for name in names]
        require_answers(answers, len(rows))
        return self._sampled(policy, rows, answers)


def require_answers(answers: Sequence[Sequence[int]], number: int) -> None:
    """Check that continuous batching has answered all prompts: what stops its thread is logged and not raised.

    Raises:
        RuntimeError: a prompt without an answer, which would have one token at least, its end.
    """
    if missing := number - sum(map(bool, answers)):
        raise RuntimeError(
            f"continuous batching left {missing} of {number} prompts without an answer; its log says why"
        )


@contextmanager
def in_computed_type(policy: Any, accelerator: Any) -> Iterator[None]:
    """Hold the weights temporarily in the type that autocast computes in: continuous batching works in a single type.

    Those that train are held in float32 and have their own values again afterwards. Buffers stay as they are: rotary
    frequencies in bfloat16 are wrong by radians at a thousand tokens.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    held = [(each, each.data) for each in policy.parameters() if dtype and each.dtype == torch.float32]
    try:
        for weights, data in held:
            weights.data = data.to(dtype)
        yield
    finally:
        for weights, data in held:
            weights.data = data


def cache_for(
    policy: Any, prompt_lengths: Sequence[int], max_new_tokens: int, settings: Mapping[str, Any] | None = None
) -> ContinuousBatchingConfig:
    """How answers of a rollout are generated continuously: with a cache that holds them all, and no larger one.

    Without a size the cache takes up to nine tenths of the free memory, of which training needs its part. A rollout
    that half of the free memory cannot hold is answered within that half, some prompts after others.

    Args:
        settings: fields of the result that were set; a size among them is taken as it is.
    """
    given = dict(settings or {})
    at_once = min(MOST_TOKENS_A_PASS, max(PAGE_TOKENS, sum(prompt_lengths)))
    if given.keys() & _SIZES:
        if "num_blocks" in given:  # otherwise transformers 5.17 makes masks that fill the memory beside the cache
            given.setdefault("max_batch_tokens", at_once)
        return ContinuousBatchingConfig(**{"max_memory_percent": MOST_MEMORY, **given})
    page = given.setdefault(PAGE, PAGE_TOKENS)
    tokens = given.setdefault("max_batch_tokens", at_once)
    blocks = 1 + sum(math.ceil((length + max_new_tokens) / page) for length in prompt_lengths)
    _, total, *taken = get_device_and_memory_breakdown()
    if blocks * page * _bytes_a_token(policy, tokens) > MOST_MEMORY * (total - max(taken)):
        return ContinuousBatchingConfig(max_memory_percent=MOST_MEMORY, **given)
    return ContinuousBatchingConfig(num_blocks=blocks, **given)


def _bytes_a_token(policy: Any, tokens_a_pass: int) -> int:
    """What a cached token takes: keys and values in all layers, and its column in two attention masks of a pass."""
    config = policy.config.get_text_config()
    wide = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int((config.num_hidden_layers * 2 * heads * wide + 2 * tokens_a_pass) * policy.dtype.itemsize)


class Vllm(Batched):
    """vLLM, which receives the policy's weights before each rollout."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        args = self.args
        self.engine = vllm_engine.library().VLLMGeneration(
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

    def __call__(self, model: Any, rows: Sequence[dict[str, Any]], draws: FixedDraws | None = None) -> list[Sampled]:
        """As its parent; what vLLM draws cannot be fixed."""
        step = self.trainer.state.global_step
        if step != self._synced:
            self.engine.sync_weights()
            self._synced = step
        prompts = [list(row["prompt_ids"]) for row in rows]
        _, answers, *_ = self.engine.generate(prompts=prompts, images=None, num_generations=1)
        return self._sampled(self.trainer.model, rows, answers)
