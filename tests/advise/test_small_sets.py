"""Twenty small sets: each way is a recipe that checks, plans for the named card, and fits it.

`tests/whole/test_advise.py` trains them; `tests/external/test_advised_sets.py` has the demo sets.
"""

from __future__ import annotations

import pytest

from ftcli.core.errors import ConfigError
from ftcli.settings.ownership import ENDPOINT
from tests.advise import small_sets
from tests.advise.advising import advice, planned, require_fits, written
from tests.advise.small_sets import SETS


@pytest.fixture(scope="session")
def folder(once):
    """A folder with the twenty sets."""
    return once("advised-sets", small_sets.write)


@pytest.mark.parametrize("name", SETS)
def test_each_way_of_a_small_set_is_a_recipe_that_fits_the_named_card(name, folder, tmp_path):
    found = advice(f"data.path={folder / name}.jsonl", "hardware.gpu=24GiB", goal=SETS[name].goal)
    assert found.wanted.look.kind == SETS[name].kind
    assert (found.wanted.look.rows, found.wanted.look.unusable) == (len(SETS[name].rows), 0)
    require_fits(found, tmp_path, "24GiB")


@pytest.mark.parametrize("name", SETS)
def test_each_way_of_a_small_set_is_a_recipe_for_the_built_in_model_too(name, folder, tmp_path):
    found = advice(f"data.path={folder / name}.jsonl", "model=tiny", goal=SETS[name].goal)
    for file, own in written(found, tmp_path):
        assert planned(f"recipe={file}", *own)


def test_who_judges_is_told_with_how_another_does_and_a_judge_that_is_named_goes_into_the_recipe(folder, tmp_path):
    rows = (f"data.path={folder / 'bare_prompts.jsonl'}", "model=tiny")
    for way in advice(*rows).ways:
        assert way.judge.startswith("tiny itself; a stronger model judges better: type judge.model=MODEL")
        assert way.grants == ()
    local = advice(*rows, "judge.model=builtin:tiny").ways[0]
    assert (local.judge, local.grants) == ("judge.model=builtin:tiny", ())
    named = ("judge=openai", "judge.model=large", "judge.base_url=http://localhost:8000/v1")
    found = advice(*rows, *named)
    assert all(way.method.roles for way in found.ways)
    for way, (file, own) in zip(found.ways, written(found, tmp_path), strict=True):
        assert way.command("train", file.name, str(folder)) == f"ftcli train recipe={file.name} --allow-endpoint"
        with pytest.raises(ConfigError, match="sends rows and your API key to an endpoint"):
            planned(f"recipe={file}", *own)
        assert planned(f"recipe={file}", *own, grants=frozenset({ENDPOINT}))


def test_only_a_way_that_judges_has_a_judge(folder):
    assert advice(f"data.path={folder / 'letters.jsonl'}", "model=tiny", "method=sft").ways[0].judge == ""
    given = advice(f"data.path={folder / 'letters.jsonl'}", "model=tiny", "judge.model=builtin:tiny")
    assert {way.method.method for way in given.ways} <= {"rlaif", "online_dpo", "constitutional"}


def test_a_way_that_does_not_fit_is_not_offered_and_its_need_is_told(folder):
    found = advice(f"data.path={folder / 'many_answers.jsonl'}", "model=qwen-4b", "hardware.gpu=12GiB")
    assert found.ways[0].adapter.adapter == "lora"
    with pytest.raises(ConfigError) as told:
        advice(f"data.path={folder / 'many_answers.jsonl'}", "model=llama-70b", "hardware.gpu=24GiB")
    # 70.55B parameters of two bytes: 131.4 GiB; nine tenths of 24 GiB can be used
    assert "needs at least 131.4 GiB, and 21.6 GiB can be used of a card of 24 GiB" in str(told.value)


def test_a_smaller_card_gets_a_smaller_model(folder):
    rows = f"data.path={folder / 'many_answers.jsonl'}"
    [large, small] = [advice(rows, f"hardware.gpu={card}", "method=sft", "peft=lora") for card in ("80GiB", "11GiB")]
    assert large.ways[0].model == "qwen"
    assert small.ways[0].model in ("qwen-1.7b", "qwen-4b")
    assert any("smaller than it could be" in text for text in small.ways[0].gives_up())


def test_hours_choose_a_smaller_model_and_then_fewer_steps(folder):
    rows, card = f"data.path={folder / 'many_answers.jsonl'}", "hardware.gpu=rtx4090"
    usual = advice(rows, card, "method=sft", "peft=lora").ways[0]
    assert usual.trial.rate_known
    hours = usual.trial.seconds / 3600 / 3
    smaller = advice(rows, card, "method=sft", "peft=lora", hours=hours).ways[0]
    assert smaller.trial.seconds <= hours * 3600
    assert smaller.size.parameters < usual.size.parameters
    named = advice(rows, card, "method=sft", "peft=lora", "model=qwen", hours=hours).ways[0]
    assert named.settings["train.max_steps"] == int(usual.trial.steps / 3)
