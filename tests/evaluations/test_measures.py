"""The measures of `ftcli eval --measure`, as they are named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ftcli.core.errors import ConfigError
from ftcli.evaluations.measures import ABOUT, READS, named_measures


def test_measures_of_the_same_rows_are_taken_together():
    assert named_measures("perplexity, answers,perplexity", None) == (["perplexity", "answers"], ("messages", "pair"))
    assert named_measures("reward", "judge") == (["reward"], READS["reward"])
    assert ABOUT.keys() == READS.keys()


@pytest.mark.parametrize(
    ("text", "reward_model", "what"),
    [
        ("perplexty", None, "did you mean perplexity"),
        (",", None, "is no measure"),
        ("answers,preferences", None, "read no rows of the same kind"),
        ("reward", None, "needs a model that gives it"),
        ("answers", "judge", "has no effect"),
    ],
)
def test_what_is_no_measure_is_refused(text, reward_model, what):
    with pytest.raises(ConfigError, match=what):
        named_measures(text, reward_model)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--measure answers", "needs rows"),
        ("--measure answers --data nowhere.jsonl", "nowhere.jsonl"),
        ("--measure answers --tasks gsm8k", "--tasks and --measure  are evaluations of their own"),
        ("--measure answers --shots 2", "--shots  has no effect with --measure"),
        ("--tasks gsm8k --data x.jsonl", "--data  has no effect with --tasks"),
        ("--reward-model x", "--reward-model  has no effect without"),
        ("--batch-size 0", "out of range"),
        ("--against builtin:tiny --data rows.jsonl", "needs a judge"),
        ("--against builtin:tiny --judge nowhere/at/all --data rows.jsonl", "--judge nowhere/at/all"),
        ("--against builtin:tiny --judge m --judge-url localhost:80 --data rows.jsonl", "is no address"),
        ("--against builtin:tiny --judge m --judge-key-env KEY --data rows.jsonl", "has no effect without --judge-url"),
        ("--against builtin:tiny --judge m --judge-url http://x/v1 --judge-key-env NO_KEY", "NO_KEY"),
        ("--against builtin:tiny --judge builtin:tiny --principles none.yaml --data rows.jsonl", "is no file"),
        ("--judge builtin:tiny", "--judge  has no effect without"),
        ("--measure reward --reward-model builtin:tiny --data rows.jsonl", "not a reward model"),
    ],
)
def test_options_without_effect_are_refused(words: str, what: str, typed: Callable[..., tuple[int, str, str]], here):
    (here / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    code, _, error = typed("eval", "builtin:tiny", *words.split())
    assert code == 2
    assert what in error
