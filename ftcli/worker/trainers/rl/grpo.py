"""TRL's GRPO and RLOO, with the rewards, prompts and exact resumes of the other methods here.

Differs from TRL in five things: rewards come from `Rewards`, so a rule or a reward model means the same for every
method; prompts are tokens that the row ledger has counted; no row is lost at the end of an epoch; a checkpoint in the
middle of a batch of answers holds them, so that a resumed run trains on the same answers; and continuous batching takes
the memory of one rollout and leaves weights that train in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from trl.trainer import grpo_trainer, rloo_trainer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from ftcli.worker.distributed.exact_state import Beside
from ftcli.worker.inference.sampling import Sampled, stop_ids
from ftcli.worker.inference.shrinking_batch import shrinking
from ftcli.worker.rewards.mixture import Rewards
from ftcli.worker.trainers.fused_head import replaced
from ftcli.worker.trainers.rl.generation import cache_for, in_computed_type, require_answers
from ftcli.worker.trainers.rl.learning_signal import LearningSignal
from ftcli.worker.trainers.rl.rollouts import RewardFields, RolloutSampler, as_prompts


@dataclass
class GrpoConfig(RewardFields, GRPOConfig):  # type: ignore[misc]
    """Fields of GRPO."""

    variant: str | None = None
    """A paper's form of the loss: it sets the fields that define it, and the paper's values of those left open. Null is
    TRL's default, the mean over all tokens of a step with one clipping range and no KL term."""


@dataclass
class RlooConfig(RewardFields, RLOOConfig):  # type: ignore[misc]
    """Fields of RLOO."""


class _Grouped:
    """Mixin before a TRL trainer that samples a group of answers to each prompt."""

    _module: ClassVar[Any]
    """TRL's module of the trainer, through whose namespace it loads its reference."""

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
        parts = _Parts(rewards, stop_ids(model, processing_class), self._look_at)
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
        self.signal = LearningSignal(self, rewards, group=args.num_generations)
        self.beside = _Buffered(self)

    def _look_at(self, answers: Sequence[Sampled], parts: Tensor) -> None:
        own: Any = self
        if own.model.training:
            self.signal.add(answers, parts)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], None, dict[str, Any]]:
        return prompts, None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        own: Any = self
        policy = own.accelerator.unwrap_model(own.model_wrapped)
        if not own.use_transformers_continuous_batching:
            with shrinking(policy):
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)  # type: ignore[misc]
        lengths, settings = [len(prompt) for prompt in prompt_ids], own.args.transformers_continuous_batching_config
        with _without_own_cast(own.args), in_computed_type(policy, own.accelerator):
            # A config is filled in when it is first used, which would keep the size of the first rollout.
            own.continuous_batching_config = cache_for(policy, lengths, own.generation_config.max_new_tokens, settings)
            found = super()._generate_single_turn(prompt_ids, *args, **kwargs)  # type: ignore[misc]
        require_answers(found[0] if isinstance(found, tuple) else found, len(prompt_ids))
        return found

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

    def log(self, *args: Any, **kwargs: Any) -> None:
        """As its parent, whose table of answers (`log_completions`) holds texts: prompts here are tokens."""
        own: Any = self
        shown = own._logs["prompt"]
        for index, prompt in enumerate(shown):
            if not isinstance(prompt, str):
                shown[index] = own.processing_class.decode(prompt)
        super().log(*args, **kwargs)  # type: ignore[misc]

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the cost of an answer is not known from its prompt."""
        return 0


@contextmanager
def _without_own_cast(args: Any) -> Iterator[None]:
    """Keep TRL from casting a model for continuous batching: weights that train in float32 would stay cast."""
    held = {name: getattr(args, name) for name in ("bf16", "fp16")}
    for name in held:
        setattr(args, name, False)
    try:
        yield
    finally:
        for name, value in held.items():
            setattr(args, name, value)


class GrpoTrainer(_Grouped, GRPOTrainer):  # type: ignore[misc]
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300)."""

    _module = grpo_trainer


class RlooTrainer(_Grouped, RLOOTrainer):  # type: ignore[misc]
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740)."""

    _module = rloo_trainer


class _Parts:
    """The reward components as functions, which TRL calls one by one for the same answers; all are computed once."""

    def __init__(self, rewards: Rewards, ends: Sequence[int], look_at: Callable[[list[Sampled], Tensor], None]) -> None:
        """`look_at`: is given the answers of each batch with their rewards."""
        self.rewards, self.ends, self.look_at = rewards, frozenset(ends), look_at
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
                self._answers, self._found = completion_ids, self.rewards(answers)
                self.look_at(answers, self._found)
            assert self._found is not None
            return [float(value) for value in self._found[:, index]]

        part.__name__ = self.rewards.names[index]
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
