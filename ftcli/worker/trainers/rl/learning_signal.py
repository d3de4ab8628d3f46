"""Whether a run that samples its own answers can learn from them: said early, with figures and a remedy.

A policy gradient learns from differences between rewards. A group of answers that all have one reward (all right, all
wrong) has no advantage and moves nothing (Yu et al. 2025, arXiv:2503.14476, section 3.2), and an answer that is cut off
is rewarded for something that the policy did not finish. Both show in the first answers, long before a curve does.

Rewards are looked at in windows of all processes' answers. What a window shows is said once, when it begins and when it
ends; result.json keeps it, and metrics.jsonl has the figures of each window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ftcli.worker.inference.sampling import Sampled
from ftcli.worker.process.activity import say_above
from ftcli.worker.rewards.mixture import Rewards

WINDOW_ANSWERS = 64
WINDOW_GROUPS = 8
SILENT, SILENT_ENDS = 0.9, 0.75
"""Shares of groups without a difference, from which a run is said not to learn, and below which it is said to again."""
CUT_OFF, CUT_OFF_ENDS = 0.5, 0.35
"""The same of answers without an end."""
MOSTLY = 0.9
"""Share of the groups without a difference that decides what they have in common."""
EQUAL = 1e-5
"""Rewards that differ by less, as a share of their size, are one reward: a reward model's depend on its batch."""
_DIGEST = 2**24
"""Numbers below it are exact in float32."""
ALL_RIGHT, ALL_WRONG, NO_VARIANCE, CUT = "all_right", "all_wrong", "no_variance", "cut_off"


@dataclass(frozen=True)
class Figures:
    """What a window of answers shows; shares are of its groups. Without groups the window is one."""

    answers: int
    groups: int
    right: float
    """All answers have the highest reward that there is."""
    wrong: float
    """All answers have the lowest."""
    equal: float
    """All answers have one reward that is neither, or of which nobody knows that it is."""
    identical: float
    """All answers are the same tokens."""
    cut_off: float
    """Share of the answers that do not end."""
    mean: float
    std: float

    @property
    def silent(self) -> float:
        """Share of groups that the policy learns nothing from."""
        return round(self.right + self.wrong + self.equal, 6)


def figures_of(rewards: Tensor, ended: Tensor, digests: Tensor, bounds: tuple[float, float]) -> Figures:
    """The figures of answers, each argument of shape (groups, answers of a group).

    Args:
        digests: numbers that differ where answers do.
        bounds: the lowest and the highest reward possible, or seen so far.
    """
    near = EQUAL * max(1.0, float(rewards.abs().max()))
    low, high = bounds
    flat = rewards.amax(1) - rewards.amin(1) <= near
    if high - low <= near:  # one reward, of which it cannot be told whether it is good
        right = wrong = torch.zeros_like(flat)
    else:
        right, wrong = flat & (rewards[:, 0] >= high - near), flat & (rewards[:, 0] <= low + near)

    def share(which: Tensor) -> float:
        return float(which.double().mean())

    return Figures(
        answers=rewards.numel(),
        groups=len(rewards),
        right=share(right),
        wrong=share(wrong & ~right),
        equal=share(flat & ~right & ~wrong),
        identical=share((digests == digests[:, :1]).all(1)),
        cut_off=1 - share(ended),
        mean=float(rewards.mean()),
        std=float(rewards.double().std(correction=0)),
    )


def findings(shown: Figures, open_names: Sequence[str] = ()) -> Iterator[str]:
    """The names of what keeps the run from learning; what is open lasts until it has clearly ended."""
    silent = {ALL_RIGHT, ALL_WRONG, NO_VARIANCE} & set(open_names)
    if shown.silent >= (SILENT_ENDS if silent else SILENT):
        of_all = MOSTLY * shown.silent
        yield ALL_RIGHT if shown.right >= of_all else ALL_WRONG if shown.wrong >= of_all else NO_VARIANCE
    if shown.cut_off >= (CUT_OFF_ENDS if CUT in open_names else CUT_OFF):
        yield CUT


class LearningSignal:
    """Watches the rewards of a trainer's answers."""

    def __init__(self, trainer: Any, rewards: Rewards, *, group: int = 1) -> None:
        """
        Args:
            trainer: has an accelerator, arguments with the sampling options, a state, and `_metrics`.
            group: answers to a prompt; 1 compares all answers of a window with each other.
        """
        self.trainer, self.rewards, self.group = trainer, rewards, group
        self.has_learned = False
        """Whether a window had something to learn from."""
        self.warnings: list[dict[str, Any]] = []
        """Everything that was said, in order; `last_step` is None while it lasts."""
        self._seen: tuple[float, float] | None = None
        self._window = torch.zeros(0, 3)
        self._first_step = 0

    def add(self, sampled: Sequence[Sampled], parts: Tensor) -> None:
        """Look at answers that are trained on; called in every process, with as many answers in each.

        Args:
            parts: each reward component of each answer, of shape (answers, components).
        """
        accelerator = self.trainer.accelerator
        told = [(float(each.ended), float(hash(tuple(each.answer_ids)) % _DIGEST)) for each in sampled]
        own = torch.cat([self.rewards.total(parts).float()[:, None].cpu(), torch.tensor(told)], dim=1)
        # In the order of the processes, as groups are dealt to them: a group may lie in two.
        found = accelerator.gather(own.to(accelerator.device)).cpu()
        if not len(self._window):
            self._first_step = self._step
        self._window = torch.cat([self._window, found])
        groups = len(self._window) // self.group
        if len(self._window) >= WINDOW_ANSWERS and (self.group == 1 or groups >= WINDOW_GROUPS):
            columns = self._window.T.reshape(3, 1 if self.group == 1 else groups, -1)
            self._window = self._window[:0]
            values = [*columns[0].flatten().tolist(), *(self._seen or ())]
            self._seen = min(values), max(values)
            self._take(figures_of(columns[0], columns[1].bool(), columns[2], self.rewards.bounds or self._seen))

    @property
    def _step(self) -> int:
        return int(self.trainer.state.global_step) + 1

    def _take(self, shown: Figures) -> None:
        """Record a window, and say what begins and what ends with it."""
        logged = {"cut_off": shown.cut_off, "reward_std": shown.std}
        if self.group > 1:
            logged |= {"groups_right": shown.right, "groups_wrong": shown.wrong, "groups_equal": shown.equal}
        for name, value in logged.items():
            self.trainer._metrics["train"][f"signal/{name}"].append(value)
        lasting = {each["name"]: each for each in self.warnings if each["last_step"] is None}
        now = list(findings(shown, list(lasting)))
        for name in lasting.keys() - set(now):
            lasting[name]["last_step"] = self._first_step - 1
            if name == CUT or not set(now) - {CUT}:  # otherwise answers are alike in another way
                self._say(f"note: since step {self._first_step} {_ENDED[name]}")
        for name in now:
            if name not in lasting:
                self._begin(name, shown)
        self.has_learned |= shown.silent < SILENT

    def _begin(self, name: str, shown: Figures) -> None:
        done = name == ALL_RIGHT and self.has_learned
        what = Wording(self.trainer.args, self.rewards, self.group).of(name, shown, done=done)
        begun = {"name": name, "first_step": self._first_step, "last_step": None, **what}
        self.warnings.append({**begun, "done": done, "figures": asdict(shown)})
        kind = "note" if done else "warning"
        self._say(f"{kind}: since step {self._first_step} {what['message']}\n  fix: {what['fix']}")

    def _say(self, text: str) -> None:
        if self.trainer.is_world_process_zero():
            say_above(text)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        names = ("has_learned", "warnings", "_seen", "_window", "_first_step")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Restore what `state` returned; checkpoints of earlier versions have none."""
        for name, value in (state or {}).items():
            setattr(self, name, value)


_ENDED = dict.fromkeys((ALL_RIGHT, ALL_WRONG, NO_VARIANCE), "answers have different rewards, to learn from")
_ENDED[CUT] = "most answers end by themselves"


class Wording:
    """What a finding means in a run, and the remedies that its settings leave."""

    def __init__(self, args: Any, rewards: Rewards, group: int) -> None:
        self.args, self.rewards, self.group = args, rewards, group
        self.longest = "max_new_tokens" if hasattr(args, "max_new_tokens") else "max_completion_length"

    def of(self, name: str, shown: Figures, *, done: bool) -> dict[str, str]:
        """`message` and `fix` of a finding.

        Args:
            done: the policy has come there by learning.
        """
        if name == CUT:
            return {"message": self._cut(shown), "fix": self._end(shown)}
        means = "the policy has nothing left to learn" if done else "the policy cannot learn from its answers"
        message = f"{means}: {self._silent(name, shown)} ({self._figures(shown)})"
        return {"message": message, "fix": "; ".join(getattr(self, f"_{name}")(shown, done))}

    def _figures(self, shown: Figures) -> str:
        ended = f"{shown.cut_off:.0%} cut off at {getattr(self.args, self.longest)} tokens"
        return f"{shown.answers} answers, mean reward {shown.mean:.3g} ± {shown.std:.2g}, {ended}"

    def _silent(self, name: str, shown: Figures) -> str:
        if shown.std <= EQUAL * max(1.0, abs(shown.mean)):
            which = {ALL_RIGHT: ", the highest", ALL_WRONG: ", the lowest"}.get(name, "")
            return f"all answers have the reward {shown.mean:.3g}{which}"
        if name == NO_VARIANCE:
            parts = {"all right": shown.right, "all wrong": shown.wrong, "all of another one reward": shown.equal}
            kinds = ", ".join(f"{share:.0%} {text}" for text, share in parts.items() if share)
            return f"in {shown.silent:.0%} of {shown.groups} groups all answers have one reward ({kinds})"
        share, which = (shown.right, "highest") if name == ALL_RIGHT else (shown.wrong, "lowest")
        return f"in {share:.0%} of {shown.groups} groups all answers have the {which} reward"

    def _all_right(self, shown: Figures, done: bool) -> Iterator[str]:
        harder = "give harder prompts (data.path), or a reward that still tells these answers apart"
        yield f"end the run here, or {harder}" if done else harder
        yield from self._more_different(shown)

    def _all_wrong(self, shown: Figures, _: bool) -> Iterator[str]:
        if shown.cut_off >= CUT_OFF:
            yield self._longer()
        yield "give easier prompts (data.path), or start from a model that was trained on right answers (method=sft)"
        yield "add a reward for parts of a right answer (method.rewards)"
        yield from self._more_different(shown)

    def _no_variance(self, shown: Figures, _: bool) -> Iterator[str]:
        if shown.identical < SILENT:
            yield f"choose a reward that tells answers apart; this run's is {', '.join(self.rewards.names)}"
            if shown.right and shown.wrong:
                yield "give prompts of medium difficulty (data.path)"
        yield from self._more_different(shown)

    def _more_different(self, shown: Figures) -> Iterator[str]:
        """Remedies that make the answers to a prompt differ more."""
        if shown.identical >= SILENT or self.args.temperature < 1:
            same = "the answers to a prompt are all the same: " if shown.identical >= SILENT else ""
            yield f"{same}raise method.temperature ({self.args.temperature:g})"
        if self.args.top_p < 1:
            yield f"raise method.top_p ({self.args.top_p:g})"
        if self.group > 1:
            yield f"sample more answers to a prompt (method.num_generations, {self.group})"

    def _cut(self, shown: Figures) -> str:
        left_out = getattr(self.args, "mask_truncated_completions", False)
        means = "are left out of the loss" if left_out else "are rewarded for what they had no room to finish"
        longest = f"method.{self.longest}={getattr(self.args, self.longest)}"
        return f"{shown.cut_off:.0%} of {shown.answers} answers are cut off at {longest}, and {means}"

    def _longer(self) -> str:
        return f"raise method.{self.longest} ({getattr(self.args, self.longest)})"

    def _end(self, shown: Figures) -> str:
        found = [self._longer(), "or ask for short answers in the prompts"]
        if "ended" not in self.rewards.names:
            found.append("or reward answers that end (method.rewards.ended=1)")
        if shown.cut_off >= SILENT:
            found.append("a model that never ends its answers has to learn it first (method=sft)")
        return "; ".join(found)
