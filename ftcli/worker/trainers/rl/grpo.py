"""TRL's GRPO and RLOO, with the rewards, prompts and exact resumes of the other methods here.

Differs from TRL in six things: rewards come from `Rewards`, so a rule or a reward model means the same for every
method; prompts are tokens that the row ledger has counted; no row is lost at the end of an epoch; a checkpoint in the
middle of a batch of answers holds them, so that a resumed run trains on the same answers; continuous batching takes the
memory of one rollout and leaves weights that train in float32; and held-out rewards do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from trl.trainer import grpo_trainer, rloo_trainer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from ftcli.worker.distributed.exact_state import Beside
from ftcli.worker.inference.fixed_draws import FixedDraws, drawing
from ftcli.worker.inference.sampling import Sampled, stop_ids
from ftcli.worker.inference.shrinking_batch import shrinking
from ftcli.worker.rewards.mixture import Rewards
from ftcli.worker.trainers.fused_head import replaced
from ftcli.worker.trainers.rl.generation import answering, cache_for, in_computed_type, require_answers
from ftcli.worker.trainers.rl.held_out_rewards import HeldOutRewards, prompt_of
from ftcli.worker.trainers.rl.learning_signal import LearningSignal
from ftcli.worker.trainers.rl.rollouts import RewardFields, RolloutSampler, as_prompts
from ftcli.worker.trainers.rl.token_loss import TokenLoss

_OF_TOKENS = ("dapo", "cispo", "vespo")
"""GRPO's losses that are a mean over all tokens of a step; the others are means over answers or rows."""


class _AnyHeldOutBatch:
    """Mixin before a config of TRL's, which wants whole groups in a held-out batch; here answers are dealt singly."""

    num_generations_eval: int | None

    def __post_init__(self) -> None:
        asked, self.num_generations_eval = self.num_generations_eval, 1
        try:
            super().__post_init__()  # type: ignore[misc]
        finally:
            self.num_generations_eval = asked


@dataclass
class GrpoConfig(RewardFields, _AnyHeldOutBatch, GRPOConfig):  # type: ignore[misc]
    """Fields of GRPO."""

    variant: str | None = None
    """A paper's form of the loss: it sets the fields that define it, and the paper's values of those left open. Null is
    TRL's default, the mean over all tokens of a step with one clipping range and no KL term."""


@dataclass
class RlooConfig(RewardFields, _AnyHeldOutBatch, RLOOConfig):  # type: ignore[misc]
    """Fields of RLOO."""


class _Grouped(TokenLoss, HeldOutRewards):
    """Mixin before a TRL trainer that samples a group of answers to each prompt."""

    _module: ClassVar[Any]
    """TRL's module of the trainer, through whose namespace it loads its reference."""
    _asked_once: ClassVar[tuple[Any, ...]] = (None, {})
    """What it takes beside tokenised prompts to answer each once: no images, none of their fields."""
    _draws: FixedDraws | None = None
    """The random numbers of held-out answers, while they are generated."""

    def __init__(
        self,
        *,
        model: Any,
        args: Any,
        rewards: Rewards,
        train_dataset: Any,
        eval_dataset: Any = None,
        processing_class: Any,
        ref_model: Any = None,
        **more: Any,
    ) -> None:
        args.reward_weights = rewards.weights.tolist()
        parts = _Parts(rewards.names, self._scored, stop_ids(model, processing_class), self._look_at)
        # By default TRL would load the hub's weights as the reference, not those that this run started from.
        with replaced(self._module, create_model_from_path=lambda *_, **__: ref_model):
            super().__init__(  # type: ignore[call-arg]
                model=model,
                args=args,
                reward_funcs=[parts.function(i) for i in range(len(rewards.names))],
                train_dataset=as_prompts(train_dataset),
                eval_dataset=as_prompts(eval_dataset),
                processing_class=processing_class,
                **more,
            )
        self.rewards = rewards
        self.answers_each = int(args.num_generations_eval or args.num_generations)
        self.signal = LearningSignal(self, rewards, group=args.num_generations)
        self.beside = _Buffered(self)

    def _look_at(self, answers: Sequence[Sampled], parts: Tensor) -> None:
        own: Any = self
        if own.model.training:
            self.signal.add(answers, parts)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], None, dict[str, Any]]:
        return prompts, None, {}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with answering(self):
            return self._generated(*args, **kwargs)

    def _scored(self, answers: Sequence[Sampled]) -> Tensor:
        with answering(self):
            return self.rewards(answers)

    def _generated(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        own: Any = self
        policy = own.accelerator.unwrap_model(own.model_wrapped)
        if not own.use_transformers_continuous_batching:
            with shrinking(policy, self._draws.keep if self._draws is not None else None):
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)  # type: ignore[misc]
        lengths, settings = [len(prompt) for prompt in prompt_ids], own.args.transformers_continuous_batching_config
        # TRL would cast the model, and weights that train in float32 would stay cast.
        with temporarily(own.args, bf16=False, fp16=False), in_computed_type(policy, own.accelerator):
            # A config is filled in when it is first used, which would keep the size of the first rollout.
            own.continuous_batching_config = cache_for(policy, lengths, own.generation_config.max_new_tokens, settings)
            found = super()._generate_single_turn(prompt_ids, *args, **kwargs)  # type: ignore[misc]
        require_answers(found[0] if isinstance(found, tuple) else found, len(prompt_ids))
        return found

    def tokens_of_step(self) -> float | None:
        """As its parent: of some of GRPO's losses, a step's part of the tokens of the answers generated together."""
        own: Any = self
        if getattr(own, "loss_type", None) not in _OF_TOKENS:
            return None
        tokens, share = own._buffered_inputs[0]["num_items_in_batch"], 1 / own.args.steps_per_generation
        return float(tokens * share * own.current_gradient_accumulation_steps)

    def _get_train_sampler(self, dataset: Any = None) -> RolloutSampler:
        own: Any = self
        args = own.args
        return RolloutSampler(
            len(own.train_dataset),
            args.generation_batch_size // own.num_generations,
            own.num_iterations * args.steps_per_generation,
            args.seed,
            group=own.num_generations,
            shuffle=own.shuffle_dataset,
        )

    def held_out_answers(self, rows: Sequence[dict[str, Any]], draws: FixedDraws) -> list[Sampled]:
        """As its parent, in batches, also where rollouts are generated continuously: that draws for all together."""
        own: Any = self
        args, prompts, found = own.args, [prompt_of(row) for row in rows], []
        rollout = args.per_device_train_batch_size * args.steps_per_generation
        size = self.held_out_together or max(rollout, args.per_device_eval_batch_size)
        # Each prompt is asked as often as it is to be answered.
        with temporarily(own, num_generations_eval=1, use_transformers_continuous_batching=False):
            for start in range(0, len(rows), size):
                batch = range(start, min(start + size, len(rows)))
                self._draws = None if own.use_vllm else draws.only(batch)
                with nullcontext() if self._draws is None else drawing(self._draws):
                    answered = self._generate_single_turn([prompts[i] for i in batch], *self._asked_once)
                found += answered[0] if isinstance(answered, tuple) else answered
        self._draws = None
        ends = set(stop_ids(own.model, own.processing_class))
        return [
            Sampled(prompt, list(ids), row["row"], bool(ids) and ids[-1] in ends)
            for prompt, ids, row in zip(prompts, found, rows, strict=True)
        ]

    def held_out_metrics(self, parts: Tensor, lengths: Tensor, ended: Tensor) -> dict[str, float]:
        """As its parent, under TRL's names."""
        total = self.rewards.total(parts.float()).double()
        measured = {"reward": float(total.mean()), "reward_std": _std(total)}
        for name, values in zip(self.rewards.names, parts.T, strict=True):
            measured |= {f"rewards/{name}/mean": float(values.mean()), f"rewards/{name}/std": _std(values)}
        groups = total.view(-1, self.answers_each)
        alike = torch.isclose(groups, groups[:, :1]).all(1)
        measured["frac_reward_zero_std"] = float(alike.double().mean())
        measured["completions/clipped_ratio"] = 1 - float(ended.double().mean())
        for kind, own in (("", lengths), ("_terminated", lengths[ended] if ended.any() else torch.zeros(1))):
            for name, value in (("mean", own.mean()), ("min", own.min()), ("max", own.max())):
                measured[f"completions/{name}{kind}_length"] = float(value)
        return measured

    def log(self, *args: Any, **kwargs: Any) -> None:
        """As its parent, whose table of the answers trained on (`log_completions`) holds texts: prompts here are
        tokens."""
        own: Any = self
        shown = own._logs["prompt"]
        for index, prompt in enumerate(shown):
            if not isinstance(prompt, str):
                shown[index] = own.processing_class.decode(prompt)
        with temporarily(own, log_completions=own.log_completions and own.model.training):
            super().log(*args, **kwargs)  # type: ignore[misc]

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the cost of an answer is not known from its prompt."""
        return 0


@contextmanager
def temporarily(owner: Any, **values: Any) -> Iterator[None]:
    """Set attributes for a while."""
    held = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in held.items():
            setattr(owner, name, value)


class GrpoTrainer(_Grouped, GRPOTrainer):  # type: ignore[misc]
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300)."""

    _module = grpo_trainer
    _asked_once = (None, {}, 1)


class RlooTrainer(_Grouped, RLOOTrainer):  # type: ignore[misc]
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740)."""

    _module = rloo_trainer


def _std(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else 0.0


class _Parts:
    """The reward components as functions, which TRL calls one by one for the same answers; all are computed once."""

    def __init__(
        self,
        names: Sequence[str],
        score: Callable[[list[Sampled]], Tensor],
        ends: Sequence[int],
        look_at: Callable[[list[Sampled], Tensor], None],
    ) -> None:
        """`look_at`: is given the answers of each batch with their rewards."""
        self.names, self.score, self.ends, self.look_at = names, score, frozenset(ends), look_at
        self._answers: Any = None
        self._found: Tensor | None = None

    def function(self, index: int) -> Callable[..., list[float]]:
        """The component with that index, under its name in the log."""

        def part(prompts: Any, completions: Any, completion_ids: Any, row: list[str], **_: Any) -> list[float]:
            if self._answers is not completion_ids:
                answers = [
                    Sampled(list(prompt), list(ids), text, bool(ids) and ids[-1] in self.ends)
                    for prompt, ids, text in zip(prompts, completion_ids, row, strict=True)
                ]
                self._found, self._answers = self.score(answers), completion_ids
                self.look_at(answers, self._found)
            assert self._found is not None
            return [float(value) for value in self._found[:, index]]

        part.__name__ = self.names[index]
        return part


class _Buffered(Beside):
    """The batch of answers that is being trained on."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def state(self) -> dict[str, Any]:
        """As its parent."""
        own = self._trainer
        within = own._step % (own.args.steps_per_generation * own.num_iterations)
        passes = own.args.gradient_accumulation_steps
        buffered = own._buffered_inputs if within else None
        return {"step": own._step, "passes": passes, "buffered": buffered, "signal": own.signal.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """As its parent. Steps are counted in passes, of which a restart with smaller ones has more; answers that are
        divided into the larger ones are then generated anew."""
        own, passes = self._trainer, self._trainer.args.gradient_accumulation_steps
        before = state.get("passes", passes)  # checkpoints of earlier versions do not say it
        own._step = state["step"] * passes // before
        own._buffered_inputs = state["buffered"] if passes == before else None
        own.signal.load_state(state.get("signal"))
