"""The three synthesis tasks: generate answers, judge pairs of answers, and revise answers.

A task builds the questions for a batch of items and makes a row from each item's replies. An item whose replies give no
row is dropped with a reason; nothing is guessed.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from ftcli.data.formats.columns import SOFT_LABEL
from ftcli.data.formats.conversations import answer_to
from ftcli.synthesis.backend import Question, Reply, Turns
from ftcli.synthesis.journal import Item
from ftcli.synthesis.principles import Principle, filled

Replies = Callable[[Sequence[Question]], list[Reply]]
_ATTEMPTS = 3
"""Attempts to get a readable verdict; from the second on it is sampled at a temperature."""
_RETRY_TEMPERATURE = 0.7
_SEEDS = 2**31
SAME, TIE, UNREADABLE = "one answer said twice", "tie", "unreadable verdict"
"""Why a judge drops an item; more may follow after a colon."""
CUT_OFF = "cut_off"
"""In an item's line: how many of its answers reached the longest length."""


@dataclass(kw_only=True)
class ItemResult:
    """The result of one item."""

    row: dict[str, Any] | None = None
    dropped: str | None = None
    replies: list[dict[str, Any]] = field(default_factory=list)
    """Every reply, with what it answered."""
    notes: dict[str, Any] = field(default_factory=dict)

    def line(self, item: Item) -> dict[str, Any]:
        """The item's line in the journal."""
        kept = {"key": item.key, "input": dict(item.row), "row": self.row, "replies": self.replies}
        return {**kept, **({"dropped": self.dropped} if self.dropped else {}), **self.notes}


def seed_of(seed: int, *parts: object) -> int:
    """A seed for one question, the same in every process."""
    return random.Random(":".join(map(str, (seed, *parts)))).randrange(_SEEDS)


def turns_of(prompt: Any) -> Turns:
    """A prompt as conversation turns."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def shown(prompt: Any) -> str:
    """A prompt as plain text, to be quoted in a question."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """Stage settings of `generate`."""

    n: int = 2
    """Number of answers per prompt."""
    temperature: float = 1.0
    """Sampling temperature."""
    max_new_tokens: int = 256
    """Longest answer, in tokens."""


@dataclass(frozen=True)
class Generate:
    """Samples `n` answers to each prompt."""

    settings: GenerateSettings
    seed: int
    name: ClassVar[str] = "generate"

    def process(self, items: Sequence[Item], ask: Replies) -> list[ItemResult]:
        """The results of the items, in order."""
        s = self.settings
        asks = [
            Question(
                turns=turns_of(item.row["prompt"]),
                temperature=s.temperature,
                max_new_tokens=s.max_new_tokens,
                seed=seed_of(self.seed, item.key, number),
            )
            for item in items
            for number in range(s.n)
        ]
        replies = ask(asks)
        return [self._answered(item, replies[i * s.n : (i + 1) * s.n]) for i, item in enumerate(items)]

    def _answered(self, item: Item, replies: Sequence[Reply]) -> ItemResult:
        texts = [reply.text for reply in replies]
        answers = [text.strip() for text in texts if text.strip()]
        made = ItemResult(replies=[{"answer": text} for text in texts])
        if cut := sum(reply.answer_tokens >= self.settings.max_new_tokens for reply in replies):
            made.notes[CUT_OFF] = cut
        if not answers:
            made.dropped = "no answer"
        else:
            made.row = {**item.row, "answers": answers}
        return made


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Stage settings of `judge`."""

    mode: Literal["pairwise", "score"] = "pairwise"
    """pairwise compares two answers, in both orders; score asks about each answer whether it follows the principle."""
    constitution: str | None = None
    """YAML file with the principles; null is the default set."""
    principles_each: int = 1
    """Number of principles that judge each item, drawn by seed."""
    least_margin: float = 0.0
    """Pairs with a smaller difference in probability are ties and dropped."""
    max_new_tokens: int = 8
    """Longest verdict in tokens, where it has to be read from text."""
    labelled: str | None = None
    """Pairs labelled by people; the result reports how often the judge agrees with them."""


class _Choice(NamedTuple):
    """A question with two choices, and the parts of its seed."""

    text: str
    choices: tuple[str, str]
    about: tuple[str, ...]
    parts: tuple[object, ...]


class _Verdict(NamedTuple):
    """The reply to a question with two choices."""

    first: float | None
    """The probability of the first choice; None where no verdict could be read."""
    told: str
    soft: bool
    """Whether the judge gave the probability; otherwise it is 1 or 0, as the text of the reply said."""


@dataclass(frozen=True)
class Judge:
    """Makes a preference pair of an item's best and worst answers, or drops the item as a tie.

    A pair that was compared by probabilities keeps their mean over both orders and all principles as its soft label
    (Lee et al. 2023, arXiv:2309.00267, section 2.1); any other has the label null, which is certainty.
    """

    settings: JudgeSettings
    seed: int
    principles: tuple[Principle, ...]
    name: ClassVar[str] = "judge"

    def process(self, items: Sequence[Item], ask: Replies) -> list[ItemResult]:
        """The results of the items, in order."""
        found = [ItemResult() for _ in items]
        different = [[each for each in dict.fromkeys(item.row["answers"]) if each.strip()] for item in items]
        open_items = [i for i, answers in enumerate(different) if len(answers) > 1]
        for i in set(range(len(items))) - set(open_items):
            found[i].dropped = SAME
        judge = self._score if self.settings.mode == "score" else self._compare
        judge([(items[i], different[i], found[i]) for i in open_items], ask)
        return found

    def _drawn(self, item: Item, part: str) -> list[Principle]:
        known = [principle for principle in self.principles if getattr(principle, part)]
        rng = random.Random(f"{self.seed}:{item.key}")
        return rng.sample(known, min(self.settings.principles_each, len(known)))

    def _score(self, work: Sequence[tuple[Item, list[str], ItemResult]], ask: Replies) -> None:
        """Rank answers by the mean probability that they follow the principles."""
        for (item, answers, made), replies in zip(
            work, self.kept([(item, answers) for item, answers, _ in work], ask), strict=True
        ):
            made.replies += replies
            if any(reply["yes"] is None for reply in replies):
                made.dropped = UNREADABLE
                continue
            means = [mean_yes(replies, number) for number in range(len(answers))]
            best, worst = means.index(max(means)), means.index(min(means))
            self._settle(item, made, answers[best], answers[worst], means[best] - means[worst])

    def kept(self, work: Sequence[tuple[Item, Sequence[str]]], ask: Replies) -> list[list[dict[str, Any]]]:
        """For each answer and principle of its item, the probability of yes; None where the verdict is unreadable."""
        questions, owners = list[_Choice](), list[tuple[int, int, str]]()
        for at, (item, answers) in enumerate(work):
            for principle in self._drawn(item, "judge"):
                for number, answer in enumerate(answers):
                    text = filled(principle.judge, prompt=shown(item.row["prompt"]), answer=answer)
                    questions.append(_Choice(text, ("yes", "no"), (answer,), (item.key, principle.name, number)))
                    owners.append((at, number, principle.name))
        found: list[list[dict[str, Any]]] = [[] for _ in work]
        for (at, number, name), verdict in zip(owners, self._verdicts(questions, ask), strict=True):
            found[at].append({"principle": name, "answer": number, "yes": verdict.first, "told": verdict.told})
        return found

    def _compare(self, work: Sequence[tuple[Item, list[str], ItemResult]], ask: Replies) -> None:
        """Compare the first two different answers in both orders; a winner in only one order is a tie.

        Judges tend to prefer the answer shown first, and asking in both orders cancels that.
        """
        questions, owners = list[_Choice](), list[tuple[int, int, str]]()
        for at, (item, answers, _) in enumerate(work):
            for principle in self._drawn(item, "compare"):
                for order in (0, 1):
                    shown_answers = (answers[order], answers[1 - order])
                    parts = dict(zip(("first", "second"), shown_answers, strict=True))
                    text = filled(principle.compare, prompt=shown(item.row["prompt"]), **parts)
                    questions.append(_Choice(text, ("A", "B"), shown_answers, (item.key, principle.name, order)))
                    owners.append((at, order, principle.name))
        wins: list[list[list[float]]] = [[[], []] for _ in work]
        soft = [True] * len(work)
        for (at, order, name), (first_wins, told, by_probability) in zip(
            owners, self._verdicts(questions, ask), strict=True
        ):
            made = work[at][2]
            made.replies.append({"principle": name, "order": order, "first": first_wins, "told": told})
            soft[at] = soft[at] and by_probability
            if first_wins is None:
                made.dropped = UNREADABLE
            else:
                wins[at][order].append(first_wins if order == 0 else 1 - first_wins)
        for (item, answers, made), own, is_soft in zip(work, wins, soft, strict=True):
            if made.dropped is not None:
                continue
            orders = [sum(each) / len(each) for each in own]
            made.notes["first_shown_wins"] = (orders[0] + 1 - orders[1]) / 2
            if (orders[0] > 0.5) != (orders[1] > 0.5):
                made.dropped = f"{TIE}: the verdict turned with the order"
                continue
            mean = sum(orders) / 2
            best, worst = (answers[0], answers[1]) if mean > 0.5 else (answers[1], answers[0])
            self._settle(item, made, best, worst, abs(2 * mean - 1), max(mean, 1 - mean) if is_soft else None)

    def _settle(
        self, item: Item, made: ItemResult, best: str, worst: str, margin: float, label: float | None = None
    ) -> None:
        if margin <= self.settings.least_margin:
            made.dropped = TIE
            return
        prompt = item.row["prompt"]
        made.row = {
            "prompt": prompt,
            "chosen": answer_to(prompt, best),
            "rejected": answer_to(prompt, worst),
            "margin": round(margin, 6),
            SOFT_LABEL[0]: None if label is None else round(label, 6),
        }

    def _verdicts(self, questions: Sequence[_Choice], ask: Replies) -> list[_Verdict]:
        """The reply to each question, asked again where no verdict could be read."""
        found = [_Verdict(None, "", False)] * len(questions)
        waiting = list(range(len(questions)))
        for attempt in range(_ATTEMPTS):
            asks = [
                Question(
                    turns=turns_of(questions[i].text),
                    temperature=_RETRY_TEMPERATURE if attempt else 0.0,
                    max_new_tokens=self.settings.max_new_tokens,
                    seed=seed_of(self.seed, *questions[i].parts, attempt),
                    choices=questions[i].choices,
                    about=questions[i].about,
                )
                for i in waiting
            ]
            for i, reply in zip(waiting, ask(asks) if asks else [], strict=True):
                first = first_choice(reply, questions[i].choices)
                found[i] = _Verdict(first, reply.text, reply.choice_logps is not None)
            waiting = [i for i in waiting if found[i].first is None]
        return found


def mean_yes(replies: Sequence[Mapping[str, Any]], number: int) -> float:
    """The mean probability of yes over the questions about one answer."""
    own = [float(reply["yes"]) for reply in replies if reply["answer"] == number]
    return sum(own) / len(own)


def first_choice(reply: Reply, choices: tuple[str, ...]) -> float | None:
    """The probability of the first of two choices: from log-probabilities, else 1 or 0 from the text, or None.

    The text must be one of the choices, in any case, with nothing but punctuation around it.
    """
    if reply.choice_logps is not None:
        first, second = reply.choice_logps
        top = max(first, second)
        return math.exp(first - top) / (math.exp(first - top) + math.exp(second - top))
    said = re.fullmatch(r"\W*(\w+)\W*", reply.text.strip().split("\n", 1)[0])
    named = [choice for choice in choices if said is not None and said[1].casefold() == choice.casefold()]
    return None if not named else 1.0 if named[0] == choices[0] else 0.0


@dataclass(frozen=True, kw_only=True)
class ReviseSettings:
    """Stage settings of `revise`."""

    rounds: int = 1
    """Rounds of critique and revision, each by a principle drawn by seed."""
    constitution: str | None = None
    """YAML file with the principles; null is the default set."""
    examples: str | None = None
    """Few-shot conversations shown before each critique and revision: `default` are those that ftcli ships, as a new
    stage has them; a YAML or JSONL file; or null for none."""
    temperature: float = 0.7
    """Sampling temperature of critiques and revisions."""
    max_new_tokens: int = 256
    """Longest critique and revision, in tokens."""


@dataclass(frozen=True)
class Revise:
    """Critiques and revises an answer by principles, round by round (Bai et al. 2022, arXiv:2212.08073, section 3)."""

    settings: ReviseSettings
    seed: int
    principles: tuple[Principle, ...]
    examples: Mapping[str, Turns] = field(default_factory=dict)
    """Few-shot turns shown before a critique and before a revision."""
    name: ClassVar[str] = "revise"

    def process(self, items: Sequence[Item], ask: Replies) -> list[ItemResult]:
        """The results of the items, in order."""
        found = [ItemResult() for _ in items]
        answers = [str(item.row["answers"][0]) for item in items]
        known = [principle for principle in self.principles if principle.critique and principle.revision]
        for number in range(self.settings.rounds):
            drawn = [random.Random(f"{self.seed}:{item.key}:{number}").choice(known) for item in items]
            parts = [
                {"prompt": shown(item.row["prompt"]), "answer": answer}
                for item, answer in zip(items, answers, strict=True)
            ]
            critiques = self._replies("critique", items, drawn, parts, number, ask)
            for own, critique in zip(parts, critiques, strict=True):
                own["critique"] = critique
            revisions = self._replies("revision", items, drawn, parts, number, ask)
            for i, (principle, critique, revision) in enumerate(zip(drawn, critiques, revisions, strict=True)):
                found[i].replies.append(
                    {"principle": principle.name, "answer": answers[i], "critique": critique, "revision": revision}
                )
                answers[i] = revision or answers[i]
        for item, made, answer in zip(items, found, answers, strict=True):
            prompt = item.row["prompt"]
            if made.replies and not made.replies[-1]["revision"]:
                made.dropped = "no revision"
            else:
                made.row = {"prompt": prompt, "completion": answer_to(prompt, answer)}
        return found

    def _replies(
        self,
        part: str,
        items: Sequence[Item],
        drawn: Sequence[Principle],
        parts: Sequence[Mapping[str, str]],
        number: int,
        ask: Replies,
    ) -> list[str]:
        asks = [
            Question(
                turns=[*self.examples.get(part, ()), *turns_of(filled(getattr(principle, part), **own))],
                temperature=self.settings.temperature,
                max_new_tokens=self.settings.max_new_tokens,
                seed=seed_of(self.seed, item.key, number, part),
            )
            for item, principle, own in zip(items, drawn, parts, strict=True)
        ]
        return [reply.text.strip() for reply in ask(asks)]


Task = Generate | Judge | Revise
SETTINGS: dict[str, type] = {"generate": GenerateSettings, "judge": JudgeSettings, "revise": ReviseSettings}
