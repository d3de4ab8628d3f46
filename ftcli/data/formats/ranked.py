"""Several ranked answers to one prompt: the best becomes chosen and the worst rejected.

The ranks (1 is the best) or scores (higher is better) are in the answers or in a column of equal length. Without
either, the order is the ranking, best first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ftcli.data.files.describe import describe_value
from ftcli.data.formats.columns import CONTEXT, TEXT, Example, Need, Shape, column
from ftcli.data.formats.conversations import ROLE_KEYS, ROLES, FieldFault, Roles, answer, key_of, only_read, text, turns
from ftcli.data.formats.row_fields import CONVERSATIONS, Fields, prompt_of, question_of, value_of

LISTS = ("responses", "answers", "completions", "outputs", "candidates")
"""Columns that hold the answers."""

RANKINGS = ("ranks", "scores")
"""Columns that may rank the answers."""

_ASKED = ("instruction", "query", "question")
_TEXTS = ("text", "answer", "response", "content", "completion", "value")
_RANK = ("rank",)
_SCORES = ("score", "rating", "overall_score", "reward")
_NAMES_THE_ROW = ("id", "prompt_id", "source")


class Ranked(NamedTuple):
    """One answer: its path in the row and its value, text or turns."""

    field: str
    value: Any


# --- rows → examples ------------------------------------------------------------------------------------------------


def from_ranked(row: Fields, roles: Roles) -> Example:
    """A prompt and a list of answers: best and worst by rank (1 is best), by score, or in order, best first."""
    prompt = value_of(row, ("prompt",))[1]
    best, worst = best_and_worst(row, value_of(row, LISTS)[0])
    if isinstance(prompt, str) and isinstance(best.value, str) and isinstance(worst.value, str):
        sides = {"chosen": text(best.value, best.field), "rejected": text(worst.value, worst.field)}
        return {"prompt": text(prompt, "prompt"), **sides}
    return {"prompt": prompt_of(prompt, "prompt", roles), **_sides(best, worst, roles)}


def from_ranked_alpaca(row: Fields, roles: Roles) -> Example:
    """An instruction or question and a list of answers, ranked; or a better and a worse one under output."""
    best, worst = best_and_worst(row, value_of(row, (*LISTS, "output"))[0])
    return {"prompt": question_of(row, value_of(row, _ASKED)[0]), **_sides(best, worst, roles)}


def from_ranked_conversation(row: Fields, roles: Roles) -> Example:
    """A conversation and a list of ways to continue it, ranked."""
    name, _ = value_of(row, CONVERSATIONS)
    prompt = turns(row[name], name, roles)
    if prompt[-1]["role"] == "assistant":
        what = f"{name} ends with an assistant turn, before the answers that are ranked"
        raise FieldFault(what, "end it with the prompt", f"{name}[{len(row[name]) - 1}]")
    best, worst = best_and_worst(row, value_of(row, LISTS)[0])
    return {"prompt": only_read(prompt), **_sides(best, worst, roles)}


def _sides(best: Ranked, worst: Ranked, roles: Roles) -> Example:
    return {
        "chosen": answer(best.value, best.field, roles),
        "rejected": answer(worst.value, worst.field, roles),
    }


# --- the ranking ----------------------------------------------------------------------------------------------------


def best_and_worst(row: Fields, name: str) -> tuple[Ranked, Ranked]:
    """The best and the worst of the answers in column `name`; of equal ones the earlier counts as better.

    Raises:
        FieldFault: fewer than two answers, one that cannot be read, or no best and worst among them.
    """
    given = row[name]
    if name == "output" and not _is_two_texts(given):
        raise FieldFault(
            f"output is {describe_value(given)}, not a list of two texts", "list the better answer first", name
        )
    if not isinstance(given, list) or len(given) < 2:
        raise FieldFault(
            f"{name} is {describe_value(given)}, not a list of two or more answers",
            "add answers or remove the row",
            name,
        )
    goodness = _goodness(row, name, given)
    order = sorted(range(len(given)), key=lambda index: -goodness[index])
    best, worst = order[0], order[-1]
    if goodness[best] == goodness[worst]:
        what = f"{name} has no best and worst: all {len(given)} are ranked equal"
        raise FieldFault(what, "rank them, or remove the row", name)
    return _entry(given[best], f"{name}[{best}]"), _entry(given[worst], f"{name}[{worst}]")


def _goodness(row: Fields, name: str, given: list[Any]) -> list[float]:
    """A number for each answer, higher for a better one."""
    for listed, sign in (("ranks", -1.0), ("scores", 1.0)):
        numbers = row.get(listed)
        if numbers is None:
            continue
        if not isinstance(numbers, list) or len(numbers) != len(given):
            what = f"{listed} is {describe_value(numbers)}, but {name} is a list of {len(given)}"
            raise FieldFault(what, f"give one {listed[:-1]} per answer", listed)
        return [sign * _number(number, f"{listed}[{index}]") for index, number in enumerate(numbers)]
    for keys, sign in ((_RANK, -1.0), (_SCORES, 1.0)):
        rated_by = [column(entry, keys) if isinstance(entry, dict) else None for entry in given]
        if not any(rated_by):
            continue
        numbered = []
        for index, (entry, key) in enumerate(zip(given, rated_by, strict=True)):
            if key is None:
                what = f"{name}[{index}] has no {keys[0]}, but others do"
                raise FieldFault(what, "rank all answers or none", f"{name}[{index}]")
            numbered.append(sign * _number(entry[key], f"{name}[{index}].{key}"))
        return numbered
    return [-float(index) for index in range(len(given))]


def _number(value: Any, field: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise FieldFault(f"{field} is {describe_value(value)}, not a number", "rank the answer, or remove it", field)
    return number


def _entry(given: Any, field: str) -> Ranked:
    """An answer without its rank or score."""
    if not isinstance(given, dict):
        return Ranked(field, given)
    role = given.get(key_of(given, ROLE_KEYS, ""))
    if (isinstance(role, str) and role.lower() in ROLES) or "from" in given or "role" in given:
        return Ranked(field, {key: value for key, value in given.items() if key not in (*_RANK, *_SCORES)})
    key = column(given, _TEXTS)
    if key is None:
        what = f"{field} has no text (it has {', '.join(given) or 'nothing'})"
        raise FieldFault(what, f"write it under {' or '.join(_TEXTS)}", field)
    return Ranked(f"{field}.{key}", given[key])


# --- recognition ----------------------------------------------------------------------------------------------------


def _is_two_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _are_answers(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(entry, str | dict | list) for entry in value)


def _ends_with_a_question(value: Any) -> bool:
    if not isinstance(value, list) or not value or not isinstance(value[-1], dict):
        return False
    name = value[-1].get(key_of(value[-1], ROLE_KEYS, ""))
    return isinstance(name, str) and (ROLES.get(name) or ROLES.get(name.lower())) in ("user", "tool")


@dataclass(frozen=True)
class RankedNeed(Need):
    """A list of ranked answers, and not a list of something else.

    Under output it must be two texts. Beside a prompt or a conversation a bare list of texts may be anything, such as
    reference answers. It is a ranking if there are ranks or scores, or if the row has no other columns.
    """

    def met(self, row: Mapping[str, Any]) -> bool:
        """As its parent."""
        return super().met(row) and not self.fault(row)

    def fault(self, row: Mapping[str, Any]) -> str:
        """Why the row does not meet this need; "" if it does."""
        if fault := super().fault(row):
            return fault
        name = column(row, self.names)
        if name == "output" and not _is_two_texts(row[name]):
            return f"output is {describe_value(row[name])}, not a list of two texts"
        asked = column(row, (*CONVERSATIONS, "prompt"))
        if name is None or asked is None or self._ranks(row, row[name]):
            return ""
        known = {name, asked, *CONTEXT, *_NAMES_THE_ROW}
        beside = [other for other in row if other not in known and row[other] is not None]
        return f"{name} has no ranks or scores, and the row has further columns: {', '.join(beside)}" if beside else ""

    @staticmethod
    def _ranks(row: Mapping[str, Any], given: list[Any]) -> bool:
        if any(isinstance(row.get(listed), list) for listed in RANKINGS):
            return True
        return any(isinstance(entry, dict) and column(entry, (*_RANK, *_SCORES)) is not None for entry in given)


_ANSWER_LIST = Shape("a list of answers, two or more", _are_answers, True)
ANSWER_LIST = RankedNeed(LISTS, _ANSWER_LIST)
ANSWER_LIST_OR_OUTPUT = RankedNeed((*LISTS, "output"), _ANSWER_LIST)
INSTRUCTION = Need(_ASKED, TEXT)
QUESTION_TURNS = Need(CONVERSATIONS, Shape("turns that end with a question", _ends_with_a_question, True))
