"""The measures that need no tasks: what each says of a model, and which rows it reads."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.suggest import suggest

PERPLEXITY, ANSWERS, PREFERENCES, REWARD = "perplexity", "answers", "preferences", "reward"
READS: dict[str, tuple[str, ...]] = {
    PERPLEXITY: ("messages", "pair", "text"),
    ANSWERS: ("messages", "pair"),
    PREFERENCES: ("preference",),
    REWARD: ("prompt", "messages", "pair", "preference"),
}
"""The dataset types that each reads."""
ABOUT: dict[str, str] = {
    PERPLEXITY: "how unlikely the model finds each token of the right answers, or of texts; lower is better",
    ANSWERS: "the share of greedy answers that are the right one, white space aside",
    PREFERENCES: "the share of pairs whose chosen answer has the higher mean log-probability",
    REWARD: "the mean score that --reward-model gives to greedy answers",
}
"""What each says of a model."""
LOWER = frozenset({PERPLEXITY})
"""Those of which less is better."""


def named_measures(text: str, reward_model: str | None) -> tuple[list[str], tuple[str, ...]]:
    """The measures that a comma-separated list names, and the dataset types that all of them read.

    Raises:
        ConfigError: one is none, they read no rows in common, or the reward model is missing or idle.
    """
    where = f"--measure {text}"
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names or [text]:
        if name not in READS:
            raise ConfigError(Problem(where, f"{name or 'nothing'} is no measure", suggest(name, READS, "")))
    if (REWARD in names) != (reward_model is not None):
        if REWARD in names:
            raise ConfigError(Problem(where, "reward needs a model that gives it", "--reward-model RUN"))
        raise ConfigError(Problem("--reward-model", "has no effect without --measure reward", "remove it"))
    kinds = common(names)
    if not kinds:
        what = f"{' and '.join(names)} read no rows of the same kind"
        raise ConfigError(Problem(where, what, "measure them one by one"))
    return names, kinds


def common(names: Sequence[str]) -> tuple[str, ...]:
    """The dataset types that all measures read."""
    return tuple(kind for kind in READS[names[0]] if all(kind in READS[name] for name in names))
