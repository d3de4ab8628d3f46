"""Tries a recipe: composed and checked as `ftcli check` does, planned as `ftcli plan` does, with the rows and hardware
of a request for advice. Nothing is trained, and nothing is written but a temporary file that is read as a recipe."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ftcli.advise.wanted import Wanted
from ftcli.build import auto_batch, fitting
from ftcli.build.resolve import build
from ftcli.config.compose import Request, compose
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.gpu_cards import rate_of
from ftcli.launch.profile import cards
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.pipelines.stages import ROWS, RunStage, SynthesisStage
from ftcli.plan.outlook import Plan, counted_rows, num_steps, plan, trainable_parameters
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.plan.run_memory import run_memory
from ftcli.settings.backends import ENDPOINTS
from ftcli.settings.ownership import ALLOW_PATH, ENDPOINT
from ftcli.synthesis.tasks import GenerateSettings


@dataclass(frozen=True)
class Trial:
    """The runs of a recipe, each with its plan; the one run of a recipe that is no pipeline is named ""."""

    runs: Mapping[str, tuple[ResolvedRun, Plan]]
    fed: tuple[str, ...] = ()
    """The stages whose rows other stages make, so that their number and their time are not known before."""
    endpoint: bool = False
    """Whether a stage asks an endpoint, which a recipe may only where the command line grants it."""

    @property
    def memory_gib(self) -> float | None:
        """The most that a process needs; None where that of a run is unknown."""
        each = [outlook.memory.total_gib if outlook.memory else None for _, outlook in self.runs.values()]
        return None if None in each or not each else max(total for total in each if total is not None)

    @property
    def steps(self) -> int:
        """Optimiser steps of all runs."""
        return sum(outlook.steps for _, outlook in self.runs.values())

    @property
    def seconds(self) -> float | None:
        """Estimated time of all training steps; None where that of a run is unknown."""
        if self.fed:
            return None
        each = [_seconds(*found) for found in self.runs.values()]
        return None if None in each else sum(seconds for seconds in each if seconds is not None)

    @property
    def rate_known(self) -> bool:
        """Whether the rate of every card is in the table, so that the time is worth more than an order."""
        found = [cards(run.spec.launch) for run, _ in self.runs.values()]
        return all(each and all(rate_of(one.name) for one in each) for each in found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the plans warn of."""
        found = [f"{name}: {line}" if name else line for name, (_, plan) in self.runs.items() for line in plan.warnings]
        return tuple(dict.fromkeys(found))

    @property
    def kept(self) -> int:
        """Rows that the first run trains on."""
        return next((outlook.rows_kept for _, outlook in self.runs.values()), 0)


def tried(text: str, wanted: Wanted) -> Trial:
    """The runs of a recipe, checked and planned.

    Args:
        text: with absolute paths.

    Raises:
        ConfigError: every problem of the recipe.
        DataError: its rows cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="ftcli-") as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(text, encoding="utf-8")
        # The paths and the endpoint of this recipe were typed, and are granted by that.
        granted = wanted.grants | ({ALLOW_PATH, ENDPOINT} if wanted.roles else {ALLOW_PATH})
        words = (f"recipe={file}", *wanted.planned_for)
        request = Request(overrides=words, config_dirs=wanted.config_dirs, grants=granted)
        try:
            pipeline = pipeline_request(request)
            if pipeline is None:
                run = build(compose(request))
                return Trial({"": (run, plan(run))})
            every = pipeline_spec(pipeline).stages
        except ConfigError as error:
            raise ConfigError(*(_by_its_line(each, str(file), text) for each in error.problems)) from None
        stages = [each for each in every if isinstance(each, RunStage)]
        asked = any(isinstance(each, SynthesisStage) and each.spec.backend.type in ENDPOINTS for each in every)
        fed = tuple(each.name for each in stages if ROWS in each.fed)
        plans = {each.name: plan(each.run) for each in stages}
        of_fed = {each.name: _as_fed(each.run, plans[each.name], wanted) for each in stages if each.name in fed}
        return Trial({each.name: (each.run, {**plans, **of_fed}[each.name]) for each in stages}, fed, asked)


def _by_its_line(problem: Problem, file: str, text: str) -> Problem:
    """A problem of the advised recipe, by what its line says: the file that was checked is gone."""
    name, _, line = problem.where.partition(":")
    if name != file or not line.isdigit():
        return problem
    return replace(problem, where=f"advised: {text.splitlines()[int(line) - 1].strip()}")


def _as_fed(run: ResolvedRun, outlook: Plan, wanted: Wanted) -> Plan:
    """The plan of a stage whose rows are answers to the prompts at hand: as many as those, and as long as they may get.

    A plan counts the built-in rows in their place, which are much shorter.
    """
    longest = wanted.look.prompt_tokens.get("max", 0) + GenerateSettings.max_new_tokens
    counted = replace(counted_rows(run), longest=longest, max_length_tokens=longest, exact=False)
    memory = run_memory(run, trainable_parameters(run), counted)
    return replace(outlook, memory=memory, steps=num_steps(run, wanted.look.rows), flops=None, warnings=())


def _seconds(run: ResolvedRun, outlook: Plan) -> float | None:
    """Time of the training steps: as the plan states it, else by the estimate that settings are compared with."""
    found = fitting.fit(run, outlook)
    if found is not None and found.seconds is not None:
        return found.seconds
    known = auto_batch.candidates(run)
    return outlook.steps * auto_batch.chosen_of(known, run).seconds if known else None
