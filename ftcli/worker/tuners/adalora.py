"""AdaLoRA's schedule, pruning and penalty in a run (Zhang et al. 2023, arXiv:2303.10512).

PEFT leaves three things to the training loop. The schedule is counted in steps, which only the trainer knows. The
pruning (algorithm 1) needs the gradients after each optimiser step, which only `on_optimizer_step` still sees. PEFT
adds the orthogonality penalty (eq. 4) in its forward pass to a loss that TRL replaces by its own. The averaged
importance scores are state as well: a resume without them would prune other ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from ftcli.core.errors import ConfigError, Problem
from ftcli.worker.tuners.residual import Residual

_INITIAL_SHARE, _FINAL_SHARE = 0.1, 0.5
_UNTIL_KNOWN = 2**31


class AdaLora(Residual):
    """LoRA with a schedule, a callback and a penalty."""

    _model: Any = None

    def config_values(self, values: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
        """With a placeholder for the number of steps, which the start of training replaces."""
        return {**super().config_values(values, tokenizer), "total_step": _UNTIL_KNOWN}

    def trainer_made(self, trainer: Any) -> None:
        """As Support."""
        super().trainer_made(trainer)
        self._model = trainer.accelerator.unwrap_model(trainer.model).base_model
        trainer.add_callback(_Pruning(self))

    def begin(self, num_steps: int) -> None:
        """Set the schedule for a number of steps.

        Raises:
            ConfigError: the two phases without pruning take up the whole run.
        """
        config = self._laid_over(num_steps)
        if config.tinit >= num_steps - config.tfinal:
            what = f"peft.tinit={config.tinit} and peft.tfinal={config.tfinal} leave no step of {num_steps} for pruning"
            raise ConfigError(Problem("peft.tinit", what, "lower them, leave them out, or train more steps"))

    def _laid_over(self, num_steps: int) -> Any:
        """The config, its schedule laid over a number of steps."""
        config = self._model.peft_config[self._model.trainable_adapter_name]
        config.total_step = num_steps
        config.tinit = int(self.settings.get("tinit", num_steps * _INITIAL_SHARE))
        config.tfinal = int(self.settings.get("tfinal", num_steps * _FINAL_SHARE))
        return config

    def other_steps(self, first: int, last: int, planned: int, now: int) -> str | None:
        """As Support: the ranks that were left after each step."""
        earlier, ours = (self._budgets(number, first, last) for number in (planned, now))
        if earlier == ours:
            return None
        return f"AdaLoRA's ranks were pruned by the schedule of {planned} steps, and go on by that of {now}"

    def _budgets(self, num_steps: int, first: int, last: int) -> list[int | None]:
        """The ranks left over after each of some steps of a run, None where it prunes nothing."""
        config, allocator = self._laid_over(num_steps), self._model.rankallocator
        final = num_steps - config.tfinal
        budgets = [(step, *allocator.budget_schedule(step)) for step in range(first, last + 1)]
        return [budget if prunes or step == final else None for step, budget, prunes in budgets]

    def prune(self, step: int) -> None:
        """Prune after optimiser step `step`, counted from 1, while its gradients still exist."""
        config, allocator = self._model.peft_config[self._model.trainable_adapter_name], self._model.rankallocator
        final = config.total_step - config.tfinal
        if step == final and config.rank_pattern and not allocator.exp_avg_ipt:
            # Extended by little, after the shorter run had pruned to its final ranks and given up the scores.
            allocator.mask_using_rank_pattern(self._model.model, config.rank_pattern)
        elif step > final and not config.rank_pattern:
            # Shortened: the step that would have pruned to the final ranks lies behind it.
            _, config.rank_pattern = allocator.update_and_allocate(self._model.model, step, force_mask=True)
            allocator.reset_ipt()
        else:
            self._model.update_and_allocate(step)

    def penalty(self, model: Any) -> Tensor | None:
        """orth_reg_weight × mean over the matrices of ‖PPᵀ − I‖, as in PEFT's own forward pass; a scalar."""
        config = self._model.peft_config[self._model.trainable_adapter_name]
        name, deviations = f".{self._model.trainable_adapter_name}", []
        for full, parameter in self._model.named_parameters():
            if full.endswith(name) and ("lora_A" in full or "lora_B" in full):
                square = parameter @ parameter.T if "lora_A" in full else parameter.T @ parameter
                deviations.append(torch.linalg.norm(square - torch.eye(len(square), device=square.device)))
        return config.orth_reg_weight * torch.stack(deviations).mean() if deviations else None

    def settle(self, trainer: Any, load_base: Any) -> None:
        """Remove the pruned ranks, as the saved file does: left in as zeros, they change the sums' last bits."""
        name = self._model.trainable_adapter_name
        if pattern := self._model.peft_config[name].rank_pattern:
            self._model.resize_modules_by_rank_pattern(pattern, name)

    def state(self) -> dict[str, Any]:
        """The averaged importance scores and the remaining ranks."""
        allocator = self._model.rankallocator
        config = self._model.peft_config[self._model.trainable_adapter_name]
        scores = {name: getattr(allocator, name) for name in ("ipt", "exp_avg_ipt", "exp_avg_unc")}
        return {**scores, "rank_pattern": config.rank_pattern}

    def load_state(self, state: dict[str, Any]) -> None:
        """As Support."""
        allocator = self._model.rankallocator
        config = self._model.peft_config[self._model.trainable_adapter_name]
        config.rank_pattern = state["rank_pattern"]
        devices = {name: parameter.device for name, parameter in self._model.model.named_parameters()}
        for name in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            setattr(allocator, name, {key: tensor.to(devices[key]) for key, tensor in state[name].items()})


class _Pruning(TrainerCallback):
    """Calls the tuner at the start of training and after each optimiser step."""

    def __init__(self, tuner: AdaLora) -> None:
        self._tuner = tuner

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._tuner.begin(state.max_steps)

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._tuner.prune(state.global_step + 1)  # the Trainer counts the step only afterwards
