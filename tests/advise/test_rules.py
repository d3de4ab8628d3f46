"""The rules: situations beside the advice that they give and its source, and what of them can be reached."""

from __future__ import annotations

import re

import pytest

from ftcli.advise.adapter_rules import ADAPTER_RULES, SIZES
from ftcli.advise.data_look import Checkable, DataLook
from ftcli.advise.goals import GOALS, OF_DATA, goal_of
from ftcli.advise.method_rules import METHOD_RULES
from ftcli.advise.ranking import drafts
from ftcli.advise.situation import TRAITS, Situation
from ftcli.core import assets
from ftcli.core.errors import ConfigError
from ftcli.data.formats.registry import DATASET_TYPES
from ftcli.methods import all_methods, all_pipelines
from ftcli.models.templates.chat_template import named_templates
from ftcli.peft_methods import PEFT_METHODS

SUM = Checkable(rule="number", column="answer")


def situation(kind, rows, goal, *, device="cuda", answer=100, base=False, named=False, repeated=0.0, checkable=None):
    """A situation by what the rules look at."""
    look = DataLook(
        path="rows.jsonl", format="", kind=kind, rows=rows, unusable=0, whole=True, duplicates=0,
        repeated_prompts=repeated, prompt_tokens={"p50": 20, "max": 40}, answer_tokens={"p50": answer}, turns=1,
        tools=0, calls=0, reasoning=0, thoughts=0, good=0, findings={}, unread=(), as_prompts={}, checkable=checkable,
    )  # fmt: skip
    return Situation(look=look, goal=goal, device=device, room_gib=70, base_model=base, named_model=named)


def ordered(found, parameters=None):
    return [(draft.method.method, draft.adapter.adapter) for draft in drafts(found, {}, parameters)]


# Situation → the ways that come first, each with a source that says so; as reviewed against the papers.
TABLE = [
    (situation("text", 5000, "domain"), ("pretrain", "none"), "2004.10964"),
    (situation("text", 5000, "domain"), ("pretrain", "rslora"), "2312.03732"),
    (situation("text", 5000, "task"), ("sft", "lora"), "1801.06146"),
    (situation("pair", 5000, "task"), ("sft", "lora"), "2106.09685"),
    (situation("pair", 5000, "task"), ("sft", "adapter"), "1902.00751"),
    (situation("pair", 5000, "task"), ("sft", "qlora"), "2305.14314"),
    (situation("pair", 50_000, "task"), ("sft", "none"), "2405.09673"),
    (situation("pair", 40, "task"), ("sft", "ia3"), "2205.05638"),
    (situation("pair", 300, "task"), ("sft", "prefix"), "2101.00190"),
    (situation("pair", 300, "task", answer=2), ("sft", "p_tuning"), "2103.10385"),
    (situation("messages", 5000, "assistant"), ("instruct", "lora"), "2203.02155"),
    (situation("pair", 900, "checkable", checkable=SUM), ("grpo", "lora"), "2402.03300"),
    (situation("prompt", 900, "checkable", checkable=SUM), ("rloo", "lora"), "2402.14740"),
    (situation("prompt", 900, "checkable", checkable=SUM), ("ppo", "lora"), "1707.06347"),
    (situation("preference", 5000, "preferences"), ("dpo", "lora"), "2305.18290"),
    (situation("preference", 5000, "preferences"), ("simpo", "lora"), "2405.14734"),
    (situation("preference", 200, "preferences"), ("ipo", "lora"), "2310.12036"),
    (situation("preference", 900, "preferences", repeated=0.5), ("ipo", "lora"), "2310.12036"),
    (situation("preference", 900, "assistant", base=True, named=True), ("orpo", "lora"), "2403.07691"),
    (situation("preference", 900, "task"), ("cpo", "lora"), "2401.08417"),
    (situation("preference", 900, "checkable"), ("reward", "lora"), "2203.02155"),
    (situation("preference", 900, "assistant"), ("rlhf", "lora"), "2203.02155"),
    (situation("label", 900, "preferences"), ("kto", "lora"), "2402.01306"),
    (situation("prompt", 900, "preferences"), ("rlaif", "lora"), "2309.00267"),
    (situation("prompt", 900, "preferences"), ("online_dpo", "lora"), "2402.04792"),
    (situation("prompt", 900, "principles"), ("constitutional", "lora"), "2212.08073"),
    (situation("prompt", 900, "task"), ("distillation", "lora"), "2306.13649"),
]  # fmt: skip
FIRST = 4
"""The places among which a way of the table stands."""


@pytest.mark.parametrize(("given", "way", "source"), TABLE)
def test_a_situation_gives_the_way_that_its_source_advises(given, way, source):
    best = drafts(given, {}, None)
    found = next(draft for draft in best if (draft.method.method, draft.adapter.adapter) == way)
    assert best.index(found) < FIRST, ordered(given)
    assert any(source in each for each in (*found.method.sources, *found.adapter.sources))


def test_every_method_and_adapter_of_the_rules_is_in_the_table():
    reached = {name for _, way, _ in TABLE for name in way}
    assert reached >= {rule.method for rule in METHOD_RULES} | {rule.adapter for rule in ADAPTER_RULES}


def test_the_rules_reach_every_method_but_none_that_does_not_exist():
    declared = {*all_methods(), *all_pipelines()}
    assert {rule.method for rule in METHOD_RULES} == declared
    assert {rule.adapter for rule in ADAPTER_RULES} <= {*PEFT_METHODS, "none"}


def test_there_is_a_way_for_every_dataset_type_with_its_usual_goal_on_any_hardware():
    for kind in DATASET_TYPES:
        for device in ("cuda", "cpu"):
            assert ordered(situation(kind, 500, OF_DATA[kind], device=device)), (kind, device)


def test_every_rule_says_why_what_it_gives_up_and_who_says_so():
    for rule in (*METHOD_RULES, *ADAPTER_RULES):
        name = rule.method if rule in METHOD_RULES else rule.adapter
        assert rule.reason, name
        assert rule.gives_up, name
        assert rule.sources, name
        assert {*rule.when.traits, *rule.when.without} <= {*TRAITS}, name
        assert {*rule.when.kinds} <= {*DATASET_TYPES}, name
        assert not rule.reason.endswith("."), name
        for source in rule.sources:
            assert re.search(r"arXiv:\d{4}\.\d{5}|LoRA Without Regret", source), source
    assert all({*rule.points} <= {*GOALS} for rule in METHOD_RULES)


def test_what_is_settled_is_advised_whatever_the_rules_would_say():
    given = situation("pair", 5000, "task", named=True)
    for name in ("dora", "ia3", "none"):
        found = drafts(given, {"peft": name}, 8_000_000_000)
        assert {draft.adapter.adapter for draft in found} == {name}
        assert all("small enough" not in draft.adapter.reason for draft in found)
    kto = situation("preference", 900, "task")
    assert {draft.method.method for draft in drafts(kto, {"method": "kto"}, None)} == {"kto"}


def test_the_sizes_are_shipped_models_in_falling_order_with_a_template_of_trl():
    shipped = assets.choices("model")
    assert all(size.instruct in shipped and size.base in shipped for size in SIZES)
    assert [*SIZES] == sorted(SIZES, key=lambda size: -size.parameters)
    assert {size.template for size in SIZES} <= {*named_templates()}


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("preferences", "preferences", "--goal preferences"),
        ("polite tone for support answers", "preferences", "polite, tone"),
        ("Solve MATH word problems", "checkable", "solve, math"),
        ("sql from questions", "task", "sql"),
        ("a chat bot", "assistant", "chat, bot"),
        ("know our legal documents", "domain", "know, legal, documents"),
        ("never say harmful things", "principles", "harmful"),
    ],
)
def test_a_goal_is_a_choice_or_guessed_from_words_that_are_named(text, name, words):
    found = goal_of(text, "pair")
    assert found.name == name
    assert words in found.how


def test_as_many_words_for_two_goals_are_decided_by_the_rows_and_the_other_is_named():
    assert goal_of("polite support answers", "preference").name == "preferences"
    found = goal_of("polite support answers", "messages")
    assert found.name == "assistant"
    assert "other words suggest preferences" in found.how


def test_a_goal_without_a_known_word_is_an_error_that_lists_the_choices():
    with pytest.raises(ConfigError) as told:
        goal_of("zzz", "pair")
    assert all(name in told.value.problems[0].fix for name in GOALS)
