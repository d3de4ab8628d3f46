"""Rewards by rule, and what is wrong with a mix of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ftcli.build import gate
from ftcli.build.resolve import spec_of
from ftcli.cli import evaluate
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.rewards import rules
from ftcli.rewards.rules import REWARDS, Answered, weighted_rewards
from ftcli.runs import rundir


def answered(text: str, *, answer: Any = "42", tokens: int = 5, ended: bool = True) -> Answered:
    return Answered(text, {"answer": answer, "solution": "#### 1,200"}, tokens, ended)


@pytest.mark.parametrize(
    ("name", "settings", "given", "expected"),
    [
        ("exact_answer", {}, answered(" 42 "), 1),
        ("exact_answer", {}, answered("The answer is 42."), 0),
        ("exact_answer", {"ignore_case": True}, answered("YES  sir", answer="yes sir"), 1),
        ("holds_answer", {}, answered("The answer is 42."), 1),
        ("holds_answer", {}, answered("The answer is 420."), 0),
        ("number", {"column": "solution"}, answered("so it is 1200.0"), 1),
        ("number", {"column": "solution"}, answered("1200, or rather 1201"), 0),
        ("number", {}, answered("none at all"), 0),
        ("regex", {"pattern": "^4"}, answered("42"), 1),
        ("regex", {"pattern": "^2"}, answered("42"), 0),
        ("tags", {"names": ["think", "answer"]}, answered("<think>a\nb</think>\n<answer>c</answer>"), 1),
        ("tags", {"names": ["think", "answer"]}, answered("<answer>c</answer>"), 0),
        ("length", {"most": 5}, answered("", tokens=5), 1),
        ("length", {"most": 4}, answered("", tokens=5), 0.75),  # one of four too many
        ("length", {"least": 10}, answered("", tokens=5), 0.5),
        ("length", {"most": 2}, answered("", tokens=9), 0),
        ("ended", {}, answered(""), 1),
        ("ended", {}, answered("", ended=False), 0),
        ("parses_as_json", {}, answered('{"a": 1}'), 1),
        ("parses_as_json", {}, answered("{a: 1}"), 0),
    ],
)
def test_a_rule_gives(name, settings, given, expected):
    assert REWARDS[name](given, **settings) == pytest.approx(expected)


def test_a_mix_is_a_name_with_a_weight_or_with_its_settings():
    one, other = weighted_rewards({"exact_answer": 2, "length": {"weight": 0.5, "most": 4}})
    assert (one.weight, one.columns()) == (2.0, ["answer"])
    assert (other.weight, other.columns()) == (0.5, [])
    assert other(answered("", tokens=5)) == 0.75
    assert weighted_rewards({"number": {"column": "solution"}})[0].columns() == ["solution"]


@pytest.mark.parametrize(
    ("given", "where", "what", "fix"),
    [
        ("exact", "method.rewards", "not a mapping", "method.rewards.exact_answer=1"),
        (
            {"exact_anser": 1},
            "method.rewards.exact_anser",
            "is not a reward",
            "did you mean method.rewards.exact_answer",
        ),
        ({"ended": "much"}, "method.rewards.ended", "not a number", "method.rewards.ended=1"),
        ({"regex": 1}, "method.rewards.regex", "needs pattern", "pattern"),
        ({"regex": {"pattern": "("}}, "method.rewards.regex.pattern", "is not a regular expression", "fix it"),
        ({"length": {"longest": 3}}, "method.rewards.length.longest", "has no setting", "least"),
        ({"length": {"most": "3"}}, "method.rewards.length.most", "not of type int", "int"),
        ({"tags": {"names": []}}, "method.rewards.tags.names", "not of type list[str]", "list"),
    ],
)
def test_what_is_wrong_with_a_mix_is_named(given, where, what, fix):
    [problem] = rules.problems(given)
    assert problem.where == where
    assert what in problem.what
    assert fix in problem.fix


def test_sampling_needs_a_reward_and_whole_groups(problems, here):
    (here / "rows.jsonl").write_text('{"prompt": [{"role": "user", "content": "a"}], "answer": "b"}\n')
    for method in ("ppo", "grpo", "rloo"):
        [found] = problems(f"method={method}", "data.path=rows.jsonl")
        assert "no reward is configured" in found
        assert "'method.reward_functions={file.py:function: 1}'" in found
        assert not problems(f"method={method}", "data.path=rows.jsonl", "method.rewards.exact_answer=1")
        assert not problems(f"method={method}")  # the built-in prompts have an answer each
    [trained] = problems("method=grpo", "method.num_generations=3")
    assert "8 answers per generation batch do not divide into groups of method.num_generations=3" in trained
    assert not problems("method=grpo", "method.num_generations_eval=3")  # held-out answers need no whole groups
    [unknown] = problems("method=grpo", "train.metric_for_best_model=loss", "train.load_best_model_at_end=true")
    assert "nothing reports the metric loss" in unknown  # of answers that are sampled anew
    [found] = problems("method=ppo", "data.streaming=true", "train.max_steps=3", "method.rewards.ended=1")
    assert "a stream has no known length" in found


def test_a_function_of_ones_own_is_granted_on_the_command_line_alone(problems, here, monkeypatch):
    (here / "mine.py").write_text("def score(**_): return [1.0]\n")
    monkeypatch.setenv("PYTHONPATH", str(here))  # which Python puts into sys.path when it starts
    monkeypatch.syspath_prepend(here)
    (here / "mine.yaml").write_text(
        "ftcli: 1\ndefaults: [{method: ppo}]\nmethod:\n  reward_functions: {mine:score: 1}\n"
    )
    [found] = problems("recipe=mine.yaml")
    assert "--trust-reward-code" in found
    assert not problems("recipe=mine.yaml", grants=frozenset({"--trust-reward-code"}))


@pytest.mark.parametrize(
    ("method", "flag"),
    [
        ({"judge": {"type": "openai", "model": "m", "base_url": "http://x/v1"}}, "--allow-endpoint"),
        ({"reward_functions": {"no.such:thing": 1.0}}, "--trust-reward-code"),
    ],
)
def test_a_run_from_somewhere_is_measured_by_no_endpoint_and_no_code_unless_told_to(method, flag, here):
    raw = json.loads(spec_of(Request(overrides=("method=ppo", "run.dir=run"))).to_json())
    (here / "run").mkdir()
    rundir.write_json(here / "run" / rundir.SPEC, {**raw, "method": {**raw["method"], **method}})
    with pytest.raises(ConfigError, match=f"grant it on the command line with {flag}"):
        evaluate.run(["run"])
    gate.opened(here / "run", frozenset({flag}))
