"""Figures in the documentation that carry a claim: they are there, and they bear it out."""

from __future__ import annotations

from ftcli.measured import result
from ftcli.methods import all_methods


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


def test_ours_take_less_memory_than_trls_and_no_more_time():
    found = result("reference_free", "python benchmarks/reference_free.py --save")
    for name, row in found["methods"].items():
        assert row["ours"]["mib"] < row["theirs"]["mib"], name
        assert row["seconds_ratio"] <= 1, name
