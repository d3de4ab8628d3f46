"""Regular expressions of strangers end, and say why."""

from __future__ import annotations

import re
import threading

import pytest

from ftcli.core.untrusted import bounded_pattern
from ftcli.core.untrusted.bounded_pattern import BoundedPattern, bounded
from ftcli.core.untrusted.processor_time import OutOfTime, limited
from tests.config.test_recipes import HEAD, write

ENDLESS = "(a+)+b"
"""Takes twice as long with each letter a of a text without b."""
MINUTES = "a" * 64


def test_usual_patterns_match_as_those_of_re():
    pattern = bounded(r".*layers\.\d+\..*(q|v)_proj")
    assert pattern.fullmatch("model.layers.3.self_attn.q_proj")
    assert pattern.fullmatch("model.layers.3.self_attn.k_proj") is None
    assert bounded("Q", re.IGNORECASE).search("aqb")
    assert bounded("b").match("ab") is None


@pytest.mark.parametrize("how", ["fullmatch", "match", "search"])
def test_an_endless_match_ends_and_names_the_limit(how):
    with pytest.raises(ValueError, match=r"'\(a\+\)\+b' takes more than 1 s of processor time"):
        getattr(BoundedPattern(ENDLESS), how)(MINUTES)


def test_the_matches_of_names_share_their_time():
    pattern = BoundedPattern(ENDLESS)
    for _ in range(2):  # the second one does not begin
        with pytest.raises(ValueError, match="processor time"):
            pattern.fullmatch(MINUTES)
    with pytest.raises(ValueError, match="processor time"):
        pattern.fullmatch("ab")


def test_a_naive_matcher_takes_twice_as_long_with_each_letter():
    import time

    def seconds(letters: int) -> float:
        begun = time.thread_time()
        re.fullmatch(ENDLESS, "a" * letters)
        return time.thread_time() - begun

    # Six letters more are 64 times as long: that it is more than 8 times shows the kind on any machine.
    assert seconds(20) > 8 * seconds(14)


def test_patterns_are_bounded_in_length_and_faults_of_any_kind_are_told():
    with pytest.raises(ValueError, match=f"has more than {bounded_pattern.MAX_CHARACTERS} characters"):
        bounded("a" * (bounded_pattern.MAX_CHARACTERS + 1))
    for wrong in ("(", "a{99999999999}", "(" * 5000 + ")" * 5000):
        with pytest.raises(ValueError, match="is not a regular expression"):
            bounded(wrong)


def test_a_limit_of_time_leaves_no_trace_and_holds_only_where_signals_arrive():
    def spin() -> None:
        while True:
            pass

    with pytest.raises(OutOfTime), limited(0.05):
        spin()
    with limited(60):
        pass

    def elsewhere() -> None:
        with limited(0.0001):
            sum(range(1000))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(timeout=120)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "setting",
    [
        "target_modules: '(([a-z._0-9]+)+)+!'",
        "exclude_modules: '(([a-z._0-9]+)+)+!'",
        "rank_pattern: {'(([a-z._0-9]+)+)+!': 4}",
    ],
)
def test_a_pattern_of_a_recipe_that_matches_without_end_is_refused(problems, here, setting):
    write(f"ftcli: 1\ndefaults:\n  - method: sft\n  - peft: lora\npeft:\n  {setting}\n")
    [found] = problems("recipe=r.yaml")
    assert "of processor time to match: no repetition may stand inside another one" in found
    assert found.startswith("r.yaml:6  ")


def test_a_reward_of_such_a_pattern_ends_too():
    from ftcli.rewards.rules import Answered, regex

    answered = Answered(text=MINUTES, whole=MINUTES, num_tokens=1, ended=True, row={})
    with pytest.raises(ValueError, match="processor time"):
        regex(answered, pattern=ENDLESS)


def test_lists_are_compared_so_often_at_most(problems, here):
    from ftcli.peft_methods import target_modules

    entries = target_modules.MAX_COMPARISONS // 40  # the built-in model has more than forty modules and folders of them
    with pytest.raises(ValueError, match="too many to compare"):
        target_modules.require_comparable(range(entries + 1), range(40), "modules_to_save")
    write(f"{HEAD}  - peft: lora\npeft: {{target_modules: [q_proj, {', '.join(['v_proj'] * 5000)}]}}\n")
    assert problems("recipe=r.yaml") == []
