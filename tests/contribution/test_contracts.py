"""ftcli's own declarations keep the contracts that plugins are held to."""

from __future__ import annotations

from typing import Any

import pytest

from ftcli.contracts.choice_contracts import method_problems, peft_problems, profile_problems, tracker_problems
from ftcli.contracts.function_contracts import format_problems, reward_problems
from ftcli.core.declarations import declarations
from ftcli.data.formats.registry import FORMATS
from ftcli.methods import all_methods
from ftcli.peft_methods import PEFT_METHODS
from ftcli.rewards.rules import REWARDS
from ftcli.settings.trackers import TRACKERS
from tests.data.formats.test_formats import ROUND_TRIPS

PROFILES = declarations("ftcli.launch.profiles", "PROFILE")
EXAMPLES: dict[str, tuple[dict[str, Any], str, dict[str, Any], float]] = {
    "exact_answer": ({}, "4", {"answer": "4"}, 1.0),
    "holds_answer": ({}, "It is 4.", {"answer": "4"}, 1.0),
    "number": ({}, "so 4", {"answer": "#### 4"}, 1.0),
    "regex": ({"pattern": "^It"}, "It is", {}, 1.0),
    "tags": ({"names": ["answer"]}, "<answer>4</answer>", {}, 1.0),
    "length": ({"most": 2}, "one two three four", {}, 0.0),
    "ended": ({}, "4", {}, 1.0),
    "parses_as_json": ({}, "{}", {}, 1.0),
}


@pytest.mark.parametrize("name", all_methods())
def test_a_method_keeps_the_contract(name: str):
    assert [*method_problems(name, all_methods()[name], name)] == []


@pytest.mark.parametrize("name", PEFT_METHODS)
def test_a_peft_method_keeps_the_contract(name: str):
    assert [*peft_problems(name, PEFT_METHODS[name], name)] == []


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_keeps_the_contract(name: str):
    assert [*profile_problems(name, PROFILES[name], name)] == []


@pytest.mark.parametrize(("name", "row", "example"), ROUND_TRIPS)
def test_a_format_keeps_the_contract(name: str, row: Any, example: Any):
    assert [*format_problems(name, FORMATS[name], (row, example), f"{name}:1")] == []


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_keeps_the_contract(name: str):
    assert [*reward_problems(name, REWARDS[name], EXAMPLES[name], name)] == []


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_keeps_the_contract(name: str):
    pytest.importorskip(TRACKERS[name].package, reason=TRACKERS[name].remedy)
    assert [*tracker_problems(name, TRACKERS[name], name)] == []
