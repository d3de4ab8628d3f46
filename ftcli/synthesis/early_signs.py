"""Whether sampled and judged answers will teach anything: said after the first items, with figures and a remedy.

A pair is made of two answers that a judge tells apart. Where answers are all alike, or all verdicts are ties, a stage
that asks for hours leaves next to no pairs; where they are cut off, the pairs teach to stop in the middle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ftcli.synthesis.tasks import CUT_OFF, SAME, TIE, UNREADABLE, Generate, Judge, Task

WINDOW = 64
"""Items that are looked at together."""
LOST = 0.9
"""Share of items without a pair from which a judge's stage is said to teach nothing."""
CUT = 0.5
"""Share of answers that are cut off from which it is said."""


def signs(task: Task, lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """What items show, as `name`, `message` and `fix`.

    Args:
        lines: items as the journal has them.
    """
    if isinstance(task, Judge):
        yield from _of_pairs(task, lines)
    elif isinstance(task, Generate):
        answers = sum(len(line["replies"]) for line in lines)
        cut = sum(int(line.get(CUT_OFF, 0)) for line in lines)
        if answers and cut >= CUT * answers:
            longest = task.settings.max_new_tokens
            message = f"{cut / answers:.0%} of {answers} answers are cut off at make.max_new_tokens={longest}"
            fix = f"raise make.max_new_tokens ({longest}), or ask for short answers in the prompts"
            yield {"name": "cut_off", "message": message, "fix": fix}


def _of_pairs(task: Judge, lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    dropped = Counter(str(line.get("dropped")).partition(":")[0] for line in lines if line["row"] is None)
    lost = dropped.total()
    if not lines or lost < LOST * len(lines):
        return
    told = ", ".join(f"{count / len(lines):.0%} {reason}" for reason, count in dropped.most_common())
    message = f"{lost / len(lines):.0%} of {len(lines)} items give no pair to learn from: {told}"
    fixes = {
        SAME: "raise make.temperature of the stage that samples the answers, or have it give more of them (make.n)",
        TIE: "choose principles that tell these answers apart (make.constitution), or a stronger judge"
        + (f"; lower make.least_margin ({task.settings.least_margin:g})" if task.settings.least_margin else ""),
        UNREADABLE: "choose a judge that follows the form of its question, or one with log-probabilities",
    }
    fix = "; ".join(fixes[reason] for reason, count in dropped.most_common() if reason in fixes and count > lost / 4)
    yield {"name": "no_pairs", "message": message, "fix": fix or "look at the replies in items.jsonl"}


class EarlySigns:
    """Looks at the items of a stage as they are finished, and says once what they show, and when it ends."""

    def __init__(self, task: Task, warn: Callable[[str], None]) -> None:
        self._task, self._warn = task, warn
        self._window: list[Mapping[str, Any]] = []
        self._lasting: set[str] = set()

    def look(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Take finished items, as the journal has them."""
        self._window += lines
        if len(self._window) < WINDOW:
            return
        shown = {each["name"]: each for each in signs(self._task, self._window)}
        for name in shown.keys() - self._lasting:
            self._warn(f"warning: {shown[name]['message']}\n  fix: {shown[name]['fix']}")
        for _ in self._lasting - shown.keys():
            better = "most items give pairs" if isinstance(self._task, Judge) else "most answers end by themselves"
            self._warn(f"note: {better} again")
        self._lasting, self._window = set(shown), []
