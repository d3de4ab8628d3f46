"""What a model is to be trained for: six plain choices, and the words of a free text that a choice is guessed from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ftcli.core.errors import ConfigError, Problem


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One choice of `--goal`."""

    summary: str
    words: tuple[str, ...]
    """Beginnings of words that a description of this goal has, in lower case."""


DOMAIN, TASK, ASSISTANT = "domain", "task", "assistant"
PREFERENCES, CHECKABLE, PRINCIPLES = "preferences", "checkable", "principles"

GOALS: Mapping[str, Goal] = MappingProxyType(
    {
        DOMAIN: Goal(
            summary="knowledge of a domain, or a language: the model is to know what the texts say",
            words=("domain", "knowledge", "know", "corpus", "language", "legal", "medical", "law", "medic", "documents",
                   "textbook", "literature", "terminology", "papers", "books", "facts"),
        ),
        TASK: Goal(
            summary="a task: one kind of input, one kind of output",
            words=("task", "classif", "extract", "summar", "translat", "label", "tag", "convert", "sql", "entit",
                   "title", "format", "json", "parse", "rewrite", "route", "categor", "sentiment", "intent"),
        ),
        ASSISTANT: Goal(
            summary="an assistant: answers to whatever people ask, in turns, with tools",
            words=("assistant", "chat", "convers", "dialog", "support", "instruct", "help", "bot", "tool", "agent",
                   "persona"),
        ),
        PREFERENCES: Goal(
            summary="preferences: of two good answers the one that people like better",
            words=("prefer", "polite", "style", "tone", "better",  "rank", "feedback", "friendl", "taste",
                   "thumbs", "concise", "manner", "human"),
        ),
        CHECKABLE: Goal(
            summary="checkable answers: a rule tells right from wrong, as in sums, code or quizzes",
            words=("math", "arithm", "reason", "check", "verif", "correct", "exact", "code", "program", "solve",
                   "proof", "sums", "calculat", "quiz", "olympi", "puzzle", "logic"),
        ),
        PRINCIPLES: Goal(
            summary="safety by principles: a written constitution says what an answer may do",
            words=("safe", "harm", "principle", "constitution", "ethic", "toxic", "refus", "policy", "jailbreak",
                   "red-team", "abuse", "privacy"),
        ),
    }
)  # fmt: skip
"""Every goal by the name that `--goal` takes."""

OF_DATA: Mapping[str, str] = MappingProxyType(
    {
        "text": DOMAIN,
        "pair": TASK,
        "messages": ASSISTANT,
        "preference": PREFERENCES,
        "label": PREFERENCES,
        "prompt": PREFERENCES,
    }
)
"""Dataset type → the goal that such rows usually serve, where no goal is given."""


@dataclass(frozen=True)
class ChosenGoal:
    """A goal, and how it was chosen, for people to read."""

    name: str
    how: str


def goal_of(text: str, kind: str) -> ChosenGoal:
    """The goal that a word or a description names.

    Args:
        kind: the dataset type of the rows, whose usual goal goes first where as many words speak for another one.

    Raises:
        ConfigError: no word of it belongs to a goal.
    """
    plain = text.strip().lower()
    if plain in GOALS:
        return ChosenGoal(plain, f"--goal {plain}")
    hits = {name: _hits(goal, plain) for name, goal in GOALS.items()}
    best = max(hits, key=lambda name: (len(hits[name]), name == OF_DATA[kind]))
    if not hits[best]:
        choices = "; ".join(f"{name} ({goal.summary.partition(':')[0]})" for name, goal in GOALS.items())
        raise ConfigError(Problem(f"--goal {text}", "has no word that tells the goal", f"name one of: {choices}"))
    others = [name for name, words in hits.items() if words and name != best]
    how = f"guessed from the word{'s' * (len(hits[best]) > 1)} {', '.join(hits[best])} of --goal"
    if others:
        how += f"; other words suggest {' and '.join(others)}: name the goal if that is meant"
    return ChosenGoal(best, how)


def goal_of_data(kind: str, checkable: bool) -> ChosenGoal:
    """The goal that rows of a dataset type usually serve."""
    if kind == "prompt" and checkable:
        return ChosenGoal(
            CHECKABLE, "assumed, since the rows are prompts with answers that a rule checks; else set --goal"
        )
    name = OF_DATA[kind]
    return ChosenGoal(name, f"assumed from the rows, which {_WHAT[kind]}; else set --goal")


_WHAT = {
    "text": "are plain text",
    "pair": "are prompts with one answer each",
    "messages": "are conversations",
    "preference": "are pairs of answers",
    "label": "are answers that are labelled good or bad",
    "prompt": "are prompts without answers",
}


def _hits(goal: Goal, text: str) -> list[str]:
    """The words of a text that begin as one of the goal's does."""
    found = re.findall(r"[\w-]+", text)
    return [word for word in dict.fromkeys(found) if word.startswith(goal.words)]
