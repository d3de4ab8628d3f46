"""Proximal policy optimisation for language models, on the same Trainer as all other methods.

Schulman et al. 2017 (arXiv:1707.06347) in the form of Stiennon et al. 2020 (arXiv:2009.01325); the arithmetic is in
ppo_math.py. This is our own trainer on transformers' Trainer, not a subclass of TRL's GRPOTrainer: a subclass would be
short, but would override private methods that TRL rewrites often, need two answers per prompt, and leave the critic out
of schedule and checkpoint (docs/reinforcement.md compares the two).

One rollout: sample answers, score them, compute advantages; then `num_ppo_epochs` passes over it, in minibatches of one
optimiser step each. The Trainer's loop only knows steps, so `training_step` counts micro-batches in `_position` and
samples a new rollout when one begins. Every token has the same weight: sums are over all processes and micro-batches of
a minibatch. The critic is kept beside the policy, with its own weights in a checkpoint and its parameters in the
policy's optimizer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Trainer
from trl.trainer.utils import disable_dropout_in_model, pad

from ftcli.worker.distributed import sharded
from ftcli.worker.inference.fixed_draws import FixedDraws
from ftcli.worker.inference.sampling import Sampled
from ftcli.worker.rewards.mixture import Rewards
from ftcli.worker.trainers.new_adapter import with_new_adapter
from ftcli.worker.trainers.rl import ppo_math
from ftcli.worker.trainers.rl.generation import answering, make_answerer
from ftcli.worker.trainers.rl.held_out_rewards import HeldOutRewards
from ftcli.worker.trainers.rl.learning_signal import LearningSignal
from ftcli.worker.trainers.rl.logprobs import Batch, Layout, Models, batch_of, prefix_scores
from ftcli.worker.trainers.rl.ppo_checkpoint import Carried
from ftcli.worker.trainers.rl.ppo_config import PpoConfig
from ftcli.worker.trainers.rl.reward_shaping import Shaping, spread
from ftcli.worker.trainers.rl.rollouts import Completions, RolloutSampler
from ftcli.worker.trainers.rl.token_loss import TokenLoss

_SHOWN = 8
"""Answers per rollout that are written to the completions file."""
_SCORED_AT_ONCE = 4
"""Micro-batches per forward pass when no gradient is kept, which needs less memory."""


class PpoTrainer(TokenLoss, HeldOutRewards, Trainer):
    """PPO with a critic, a reference, and any kind of reward."""

    _tag_names: ClassVar[list[str]] = ["ppo"]
    control: Any
    lays_out_rows = True
    """Its rows come without padding where they can (see logprobs), and a critic reads the states of the others."""

    @property
    def ref_model(self) -> Any:
        """The frozen reference model; None if the reference is the policy with its adapter disabled."""
        return self.models.ref_model

    def __init__(
        self,
        *,
        model: Any,
        args: PpoConfig,
        train_dataset: Any,
        processing_class: Any,
        rewards: Rewards,
        critic: Any,
        ref_model: Any = None,
        eval_dataset: Any = None,
        peft_config: Any = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        """
        Args:
            critic: a ValueHead or a ValueNetwork. ref_model: a frozen copy of the policy for full fine-tuning; None
            with an adapter, which is disabled instead.
        """
        if peft_config is not None:
            model = with_new_adapter(model, peft_config, args)
        super().__init__(
            model=model,
            args=args,
            data_collator=list,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=list(callbacks),
        )
        self.is_sharded = sharded.is_sharded(self)
        self.model_accepts_loss_kwargs = False  # the loss is divided here, by the tokens of the whole minibatch
        self.rewards, self.tokenizer = rewards, processing_class
        for each in (model, ref_model, critic):
            if args.disable_dropout and each is not None:
                disable_dropout_in_model(each)
        self.models = Models(self, critic, ref_model)
        self._critic_optimizer: sharded.CriticOptimizer | None = None
        self._critic_optimised = False
        self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
        self._position: int | None = None
        self._rollout: list[dict[str, Tensor]] = []
        self._num_tokens: list[int] = []
        self.kl_coef = args.kl_coef
        self.shaping = Shaping(args)
        self.signal = LearningSignal(self, rewards)
        self.completions = Completions(Path(str(args.output_dir)).parent / "completions.jsonl")
        self.beside = Carried(self)
        self.answerer = make_answerer(self)

    # --- the Trainer's loop ------------------------------------------------------------------------------------------

    @property
    def rollout_size(self) -> int:
        """Answers per rollout on this process."""
        return int(self._train_batch_size * self.args.gradient_accumulation_steps * self.args.num_mini_batches)

    @property
    def _repeats(self) -> int:
        """Micro-batches that are trained on per rollout."""
        return int(self.args.num_ppo_epochs * self.args.num_mini_batches * self.args.gradient_accumulation_steps)

    def get_train_dataloader(self) -> Any:
        """Batches of one rollout's prompts, each repeated for every micro-batch that is trained on it."""
        return self._get_dataloader(
            dataset=self.train_dataset,
            description="Training",
            batch_size=self.rollout_size,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _get_train_sampler(self, dataset: Any = None) -> RolloutSampler:
        shuffle = self.args.train_sampling_strategy != "sequential"
        size = self.rollout_size * self.args.world_size
        return RolloutSampler(len(self.train_dataset), size, self._repeats, self.args.seed, shuffle=shuffle)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The policy's optimizer with the critic's parameters in it; a separate one if the policy is sharded."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.is_sharded:
            if self._critic_optimizer is None:
                self._critic_optimizer = sharded.CriticOptimizer(self, self.models.critic)
                self.add_callback(self._critic_optimizer)
        elif not self._critic_optimised:
            rate = self.args.value_learning_rate or self.args.learning_rate
            trained = [parameter for parameter in self.models.critic.parameters() if parameter.requires_grad]
            optimizer.add_param_group({"params": trained, "lr": rate, "weight_decay": self.args.weight_decay})
            self._critic_optimised = True
        return optimizer

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Train on one micro-batch of the current rollout; sample a new rollout if one begins."""
        if self._position is None:
            self._position = self.state.global_step * self.args.gradient_accumulation_steps
        if self._position % self.args.gradient_accumulation_steps == 0:
            # The Trainer zeroes the gradients of its own model only, and the critic is no part of it.
            self.models.critic.zero_grad(set_to_none=True)
        at_step = self._position % self._repeats
        if at_step == 0:
            self._sample_rollout(model, inputs)
        found: Tensor = super().training_step(model, {"at": at_step}, num_items_in_batch)
        self._position += 1
        return found

    def tokens_of_step(self) -> float:
        """As its parent."""
        assert self._position is not None
        return float(self._num_tokens[self._position % self._repeats // self.args.gradient_accumulation_steps])

    def _clip_grad_norm(self, model: Any) -> Any:
        if self._critic_optimizer is not None:
            return self._critic_optimizer.clip(model)
        both = [*model.parameters(), *self.models.critic.parameters()]
        return self.accelerator.clip_grad_norm_(both, self.args.max_grad_norm)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the cost of a rollout is not known from its prompts."""
        return 0

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Tokens are counted where answers are sampled."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the means since the last line."""
        kept = self._metrics["train" if self.model.training else "eval"]
        means = {name: sum(values) / len(values) for name, values in kept.items() if values}
        super().log({**logs, **means}, *args, **kwargs)
        kept.clear()

    def held_out_answers(self, rows: Sequence[dict[str, Any]], draws: FixedDraws) -> list[Sampled]:
        """As its parent."""
        return self.answerer(self.model_wrapped, rows, draws)

    def held_out_metrics(self, parts: Tensor, lengths: Tensor, ended: Tensor) -> dict[str, float]:
        """As its parent: the mean reward, without the KL penalty."""
        return {
            "reward": float(self.rewards.total(parts.float()).double().mean()),
            "completions/mean_length": float(lengths.mean()),
            "completions/ended": float(ended.double().mean()),
        }

    # --- rollouts ----------------------------------------------------------------------------------------------------

    def _sample_rollout(self, model: Any, rows: Sequence[dict[str, Any]]) -> None:
        """Answer the prompts, score the answers, and compute what is trained on."""
        with answering(self):
            sampled = self.answerer(model, rows)
            parts = self._scored(sampled)
        self.signal.add(sampled, parts)
        per_token = self._per_token(model, sampled)
        self.take_rollout(sampled, parts, per_token)

    def _scored(self, sampled: Sequence[Sampled]) -> Tensor:
        return self.rewards(sampled)

    def take_rollout(self, sampled: Sequence[Sampled], parts: Tensor, per_token: list[dict[str, Tensor]]) -> None:
        """Make a rollout from answers, their rewards, and the models' values for each of their tokens.

        Args:
            parts: each reward component of each answer, of shape (answers, components).
            per_token: for each answer `logps`, `ref_logps` and `values`, each of shape (answer tokens,); with
                score_at=each also `prefix_scores`.
        """
        args = self.args
        # From here on (B, T): B answers on this process, padded with zeros to the longest.
        padded = {name: pad([each[name] for each in per_token], padding_value=0.0) for name in per_token[0]}
        mask = pad([torch.ones(len(each.answer_ids)) for each in sampled], padding_value=0.0)
        raw = self.rewards.total(parts)
        ended = torch.tensor([each.ended for each in sampled])
        scores = self.shaping(raw, ended, self._summed)
        if args.score_at == "each":
            scores = spread(padded.pop("prefix_scores"), scores, mask)
        kl = ppo_math.kl_estimate(padded["logps"], padded["ref_logps"], args.kl_estimator) * mask
        rewards = ppo_math.token_rewards(scores, kl, mask, self.kl_coef)
        if args.whiten_rewards:
            rewards = ppo_math.whiten(rewards, mask, self._moments(rewards, mask), shift_mean=False)
        advantages, returns = ppo_math.advantages_and_returns(rewards, padded["values"], mask, args.gamma, args.lam)
        if args.whiten_advantages:
            advantages = ppo_math.whiten(advantages, mask, self._moments(advantages, mask))
        # Kept per answer and without padding: a pass takes the answers in another order, and pads them differently.
        self._rollout = [
            {
                "prompt_ids": torch.tensor(each.prompt_ids),
                "answer_ids": torch.tensor(each.answer_ids),
                **{name: padded[name][i, : len(each.answer_ids)].clone() for name in ("logps", "values")},
                "advantages": advantages[i, : len(each.answer_ids)].clone(),
                "returns": returns[i, : len(each.answer_ids)].clone(),
            }
            for i, each in enumerate(sampled)
        ]
        self._num_tokens = self._tokens_of_minibatches()
        self._log_rollout(sampled, parts, raw, kl, {**padded, "returns": returns, "mask": mask})

    def _batch(self, pairs: Sequence[tuple[Any, Any]], *, alone: bool = False) -> Batch:
        layout = Layout.ALONE if alone else self.models.layout
        return batch_of(pairs, self.tokenizer.pad_token_id or 0, self.accelerator.device, layout)

    def _per_token(self, model: Any, sampled: Sequence[Sampled]) -> list[dict[str, Tensor]]:
        """The values of policy, reference and critic for each answer token, without gradients.

        Answers of similar length go through together, for less padding. The model is in evaluation mode: with dropout
        the ratio to these log-probabilities would not be 1 before the first update.
        """
        order = sorted(range(len(sampled)), key=lambda i: len(sampled[i].prompt_ids) + len(sampled[i].answer_ids))
        found: list[dict[str, Tensor]] = [{} for _ in sampled]
        size = self._train_batch_size * _SCORED_AT_ONCE
        training = model.training
        model.eval()
        with torch.no_grad():
            for start in range(0, len(order), size):
                own = order[start : start + size]
                pairs = [(sampled[i].prompt_ids, sampled[i].answer_ids) for i in own]
                batch = self._batch(pairs)
                logps, _, values = self.models.policy(model, batch)
                columns = {"logps": logps, "ref_logps": self.models.reference(batch), "values": values}
                if self.args.score_at == "each":
                    assert self.rewards.reward_model is not None
                    scores = prefix_scores(self.rewards.reward_model.model, self._batch(pairs, alone=True))
                    columns["prefix_scores"] = scores * self.args.reward_model_weight
                for row, i in enumerate(own):
                    length = len(sampled[i].answer_ids)
                    found[i] = {name: values[row, :length].float().cpu() for name, values in columns.items()}
        model.train(training)
        return found

    def _tokens_of_minibatches(self) -> list[int]:
        """Answer tokens of each minibatch of all passes, over all processes.

        Counted once per rollout, so that the loss of a micro-batch can be divided by its minibatch's tokens without
        further communication.
        """
        passes = range(self.args.num_ppo_epochs)
        orders = [self._order(number) for number in passes]
        size = self.rollout_size // self.args.num_mini_batches
        lengths = [len(row["answer_ids"]) for row in self._rollout]
        counts = [
            sum(lengths[i] for i in order[start : start + size])
            for order in orders
            for start in range(0, len(order), size)
        ]
        return [int(count) for count in self._summed(torch.tensor(counts, dtype=torch.float64)).tolist()]

    def _order(self, ppo_epoch: int) -> list[int]:
        """The order in which a pass takes the rollout's rows; a function of the seed, so that a resume repeats it."""
        assert self._position is not None
        rollout = self._position // self._repeats
        generator = torch.Generator().manual_seed(hash((self.args.seed, rollout, ppo_epoch)) % 2**63)
        return [int(i) for i in torch.randperm(len(self._rollout), generator=generator)]

    # --- the loss ----------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Clipped policy loss, value loss and entropy of one micro-batch of the rollout."""
        # `at` counts the rollout's micro-batches; from it follow the pass, the minibatch in it, and the rows.
        args, at_step = self.args, inputs["at"]
        minibatch, micro = divmod(at_step, args.gradient_accumulation_steps)
        ppo_epoch, within = divmod(minibatch, args.num_mini_batches)
        start = (within * args.gradient_accumulation_steps + micro) * self._train_batch_size
        rows = [self._rollout[i] for i in self._order(ppo_epoch)[start : start + self._train_batch_size]]
        batch = self._batch([(row["prompt_ids"], row["answer_ids"]) for row in rows])
        old = {
            name: pad([row[name] for row in rows], padding_value=0.0).to(batch.mask.device)
            for name in ("logps", "values", "advantages", "returns")
        }
        logps, entropy, values = self.models.policy(model, batch)
        policy, clipped = ppo_math.policy_losses(logps, old["logps"], old["advantages"], args.cliprange)
        value, value_clipped = ppo_math.value_losses(values, old["values"], old["returns"], args.cliprange_value)
        # The Trainer divides by the number of accumulated micro-batches and averages over processes: undo both, and
        # divide by the tokens of the whole minibatch instead.
        whole = args.gradient_accumulation_steps * args.world_size / max(self._num_tokens[minibatch], 1)

        def mean(each: Tensor) -> Tensor:
            return (each * batch.mask).sum() * whole

        loss = mean(policy) + args.vf_coef * mean(value) - args.entropy_coef * mean(entropy)
        measured = {
            "loss/policy": policy, "loss/value": value, "entropy": entropy, "policy/clip_fraction": clipped,
            "value/clip_fraction": value_clipped, "policy/approx_kl": 0.5 * (logps - old["logps"]) ** 2,
        }  # fmt: skip
        if model.training:
            for name, each in measured.items():
                self._metrics["train"][name].append(ppo_math.masked_mean(each.detach(), batch.mask).item())
        return (loss, {}) if return_outputs else loss

    # --- over all processes ------------------------------------------------------------------------------------------

    def _summed(self, values: Tensor) -> Tensor:
        if self.args.world_size == 1:
            return values
        found: Tensor = self.accelerator.reduce(values.to(self.accelerator.device), "sum")
        return found.cpu()

    def _moments(self, values: Tensor, mask: Tensor) -> ppo_math.Moments:
        return ppo_math.Moments(self._summed(ppo_math.Moments.of(values, mask).sums))

    def _log_rollout(
        self, sampled: Sequence[Sampled], parts: Tensor, raw: Tensor, kl: Tensor, padded: dict[str, Tensor]
    ) -> None:
        """Log the rollout, adapt the KL coefficient to it, and write some of its answers."""
        args, mask = self.args, padded["mask"]
        lengths = torch.tensor([len(each.answer_ids) for each in sampled], dtype=torch.float64)
        ended = torch.tensor([each.ended for each in sampled], dtype=torch.float64)
        rows = [raw, raw**2, kl.sum(1), lengths, ended, *parts.T]
        sums = self._summed(torch.stack([row.double().sum() for row in rows]))
        count = len(sampled) * args.world_size
        reward, square, answer_kl, length, share_ended, *of_parts = (sums / count).tolist()
        kept = self._metrics["train"]
        logged = {
            "reward": reward, "reward/std": max(square - reward**2, 0.0) ** 0.5, "kl": answer_kl,
            "kl_coef": self.kl_coef, "completions/mean_length": length, "completions/ended": share_ended,
            "value/explained_variance": ppo_math.explained_variance(padded["values"], padded["returns"], mask),
            **{f"rewards/{name}": value for name, value in zip(self.rewards.names, of_parts, strict=True)},
        }  # fmt: skip
        for name, value in logged.items():
            kept[name].append(value)
        self.state.num_input_tokens_seen += int(
            self._summed(torch.tensor(float(sum(len(s.prompt_ids) + len(s.answer_ids) for s in sampled))))
        )
        if args.kl_target is not None:
            self.kl_coef = ppo_math.adapted_kl_coef(self.kl_coef, answer_kl, args.kl_target, count, args.kl_horizon)
        every = args.log_completions_steps
        steps = self._repeats // args.gradient_accumulation_steps
        if every and args.process_index == 0 and self.state.global_step % every < steps:
            rewards = [
                {"reward": float(total), **dict(zip(self.rewards.names, map(float, own), strict=True))}
                for total, own in zip(raw[:_SHOWN], parts[:_SHOWN], strict=True)
            ]
            self.completions.add(self.state.global_step, sampled[:_SHOWN], self.tokenizer, rewards)
