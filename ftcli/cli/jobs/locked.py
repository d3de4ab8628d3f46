"""A job held to its recipe's lock: what it reads is compared, byte for byte, before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ftcli.cli import output
from ftcli.cli.jobs.run import RunJob
from ftcli.cli.requirements import require_rows
from ftcli.config.compose import Request, compose
from ftcli.config.overrides import parse
from ftcli.config.recipe_file import find
from ftcli.core.errors import ConfigError, Problem
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.plan.measure import measure
from ftcli.recipes import locking, recipe_lock
from ftcli.recipes.recipe_lock import Lock
from ftcli.settings.run_spec import RunSpec


@dataclass(frozen=True)
class Held:
    """A job, and the lock that it is held to."""

    job: RunJob
    lock: Lock
    other_packages: list[str]

    @property
    def spec(self) -> RunSpec:
        """The spec of the run."""
        return self.job.spec


def job(overrides: tuple[str, ...], grants: frozenset[str], where: str) -> Held:
    """The job of a locked recipe, once all that is locked was found as it was.

    Args:
        where: the command, for messages.

    Raises:
        ConfigError: recipe, lock, or something that the run reads was changed; a grant is missing; or something is set
            beside the recipe.
    """
    named = [override for override in map(parse, overrides) if override.name == "recipe"]
    if not named:
        fix = "ftcli train recipe=FILE --locked"
        raise ConfigError(Problem(where, "needs a recipe, beside which its lock lies", fix))
    recipe = find(str(named[0].value), where)
    lock = recipe_lock.read(recipe_lock.place(recipe))
    request = locking.pinned(Request(overrides=overrides, grants=grants), Path(recipe), lock)
    if pipeline_request(request) is not None:
        raise ConfigError(Problem(str(recipe), "is a pipeline; a single run is locked", "lock its stages one by one"))
    found = RunJob.checked(compose(request))
    if measure(found.specs(), output.note):
        found = RunJob.checked(compose(request))
    require_rows(found.spec)  # what is remote is here once it was fetched, and then compared
    locking.require_locked(found.spec, lock)
    return Held(found, lock, locking.other_packages(lock))
