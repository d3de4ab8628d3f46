"""Every shipped recipe fits the card that it names, with the memory that it says, and is free of problems there."""

from __future__ import annotations

import re

import pytest

from ftcli.build import fitting
from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.config.recipe_file import read
from ftcli.core import assets
from ftcli.core.gpu_cards import card
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.plan.outlook import plan
from ftcli.plan.resolved_run import ResolvedRun
from tools.recipe_tables import CPU, head_of

HEADS = {name: head_of(path) for name, path in assets.recipes().items()}
OF_THE_LARGEST = 1.1e10
"""Parameters of the largest model of most recipes."""


def runs_of(name: str) -> dict[str, ResolvedRun]:
    """The runs of a recipe on the card that it names, by stage; rows that would be downloaded are the built-in ones."""
    overrides = [f"recipe={name}", *([f"hardware.gpu={HEADS[name].card}"] if HEADS[name].card != CPU else [])]
    data = read(assets.recipes()[name]).values.get("data", {})
    if data.get("path"):
        overrides += ["data.path=builtin:tiny", *(["~data.split"] if "split" in data else [])]
    request = Request(overrides=tuple(overrides))
    wanted = pipeline_request(request)
    return dict(pipeline_spec(wanted).runs()) if wanted else {"": run_of(request)}


@pytest.mark.parametrize("name", HEADS)
def test_a_recipe_fits_the_card_that_it_names_with_the_memory_that_it_says(name: str) -> None:
    head = HEADS[name]
    most = 0.0
    for stage, run in runs_of(name).items():
        assert run.spec.launch.num_processes == head.num_cards, stage
        outlook = plan(run)
        assert outlook.memory is not None, stage
        most = max(most, outlook.memory.total_gib)
        verdict = fitting.fit(run, outlook)
        assert (verdict.verdict if verdict else None) == (None if head.card == CPU else "fits"), stage
        assert outlook.steps >= 1
    assert most == pytest.approx(head.memory_gib, rel=0.02, abs=0.06)


def test_there_are_thirty_recipes_and_most_of_them_are_for_eight_billion_parameters_or_fewer() -> None:
    assert len(HEADS) >= 30
    small = [
        name
        for name in HEADS
        if all((run.shape is None or (plan(run).parameters or 0) < OF_THE_LARGEST) for run in runs_of(name).values())
    ]
    assert len(small) >= 0.9 * len(HEADS)


def test_a_card_is_one_that_the_plan_knows() -> None:
    assert [head.card for head in HEADS.values() if head.card != CPU and card(head.card) is None] == []


def test_a_published_recipe_says_where_each_of_its_values_was_read() -> None:
    published = {name: head.source for name, head in HEADS.items() if head.source}
    families = {name.partition("-")[0] for name in published}
    assert {"zephyr", "tulu3", "smollm3", "olmo3", "constitutional", "cai"} <= families
    assert all(re.search(r"arXiv:\d{4}\.\d{5}|at [0-9a-f]{7}\b", source) for source in published.values())
