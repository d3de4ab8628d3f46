"""Figures in the documentation that carry a claim: they are there, and they bear it out."""

from __future__ import annotations

from statistics import mean, stdev

from ftcli.methods import all_methods
from tools.result_tables import result


def test_every_preference_method_reached_the_margin_and_made_answers_politer():
    found = result("preferences", "python benchmarks/preferences.py --save")
    assert {row["name"].partition(" ")[0] for row in found["methods"]} == {
        name for name, method in all_methods().items() if method.task == "preference"
    }
    for row in found["methods"]:
        assert row["score"]["after"] >= found["accuracy"] == 0.9, row["name"]
        assert row["score"].get("reward_accuracy", 1) >= 0.9, row["name"]
        if row["name"] != "reward":
            assert row["after"]["polite"] > found["before"]["polite"], row["name"]


def test_our_ppo_reaches_no_less_reward_than_trls_and_takes_less_time():
    found = result("ppo", "python benchmarks/ppo.py --save")
    ours, theirs = ([run["reward"] for run in found["runs"][tool]] for tool in ("ftcli", "trl"))
    assert len(ours) == len(theirs) >= 5
    error = ((stdev(ours) ** 2 + stdev(theirs) ** 2) / len(ours)) ** 0.5
    assert mean(ours) >= mean(theirs) - error
    assert found["ratio"] >= 1.2


def test_rewards_rise_from_policy_to_policy_and_answers_grow_politer():
    for run in result("rlhf", "python benchmarks/rlhf.py --save")["runs"]:
        rewards = list(run["measure"]["values"].values())
        assert rewards == sorted(rewards)
        assert run["sampled"]["ppo"]["polite"] > run["sampled"]["sft"]["polite"]


def test_ours_take_less_memory_than_trls_and_no_more_time():
    found = result("reference_free", "python benchmarks/reference_free.py --save")
    for name, row in found["methods"].items():
        assert row["ours"]["mib"] < row["theirs"]["mib"], name
        assert row["seconds_ratio"] <= 1, name
