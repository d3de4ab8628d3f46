"""A job held to its recipe's lock: what it reads is compared, byte for byte, before it starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.cli import output
from ftcli.cli.jobs.job import Job
from ftcli.cli.jobs.run import RunJob
from ftcli.cli.requirements import require_rows
from ftcli.config.compose import Request, compose
from ftcli.config.overrides import parse
from ftcli.config.recipe_file import find
from ftcli.core.errors import ConfigError, Problem
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.plan.measure import measure
from ftcli.recipes import locking, outcome, recipe_lock
from ftcli.recipes.outcome import Comparison
from ftcli.recipes.recipe_lock import Lock

if TYPE_CHECKING:
    from ftcli.cli.jobs.pipeline import PipelineJob


@dataclass(frozen=True)
class Held:
    """A job, and the lock that it is held to."""

    job: RunJob | PipelineJob
    lock: Lock
    other_packages: list[str]
    asked: frozenset[str] = frozenset()
    """Of a pipeline the stages whose outcome is free, since an endpoint is asked anew by them or before them."""

    @property
    def folder(self) -> Path:
        """Where the job goes."""
        return Path(str(self.job.spec.run.dir)) if isinstance(self.job, RunJob) else self.job.spec.dir

    def compared(self, folder: Path) -> tuple[bool, list[Comparison]]:
        """Whether a finished run or pipeline must be the locked one bit for bit, and how it compares.

        Raises:
            ConfigError: it is not finished, or what it wrote is damaged.
        """
        if isinstance(self.job, RunJob):
            exact = locking.same_bits(self.job.spec.launch.device, self.lock)
            return exact, outcome.compared(self.lock.outcome, outcome.of_run(folder), exact=exact)
        from ftcli.recipes import pipeline_lock

        return pipeline_lock.compared(self.lock, self.job.spec, folder, self.asked)


def job(overrides: tuple[str, ...], grants: frozenset[str], where: str) -> Held:
    """The job of a locked recipe, once all that is locked was found as it was.

    Args:
        where: the command, for messages.

    Raises:
        ConfigError: recipe, lock, or something that is read was changed; a grant is missing; or something is set beside
            the recipe.
    """
    named = [override for override in map(parse, overrides) if override.name == "recipe"]
    if not named:
        fix = "ftcli train recipe=FILE --locked"
        raise ConfigError(Problem(where, "needs a recipe, beside which its lock lies", fix))
    recipe = find(str(named[0].value), where)
    lock = recipe_lock.read(recipe_lock.place(recipe))
    request = locking.pinned(Request(overrides=overrides, grants=grants), Path(recipe), lock)
    if (pipeline_request(request) is not None) != lock.of_pipeline:
        kinds = ("a single run", "a pipeline")
        what = f"is of {kinds[lock.of_pipeline]}, and the recipe is of {kinds[not lock.of_pipeline]}"
        raise ConfigError(Problem(str(recipe_lock.place(recipe)), what, "lock a run of the recipe: ftcli recipe lock"))
    if lock.of_pipeline:
        return _pipeline(request, recipe, lock)
    found = RunJob.checked(compose(request))
    if measure(found.specs(), output.note):
        found = RunJob.checked(compose(request))
    require_rows(found.spec)  # what is remote is here once it was fetched, and then compared
    locking.require_locked(found.spec, lock)
    return Held(found, lock, locking.other_packages(lock))


def _pipeline(request: Request, recipe: Path, lock: Lock) -> Held:
    from ftcli.cli.jobs.pipeline import PipelineJob, require_stage_rows
    from ftcli.recipes import pipeline_lock

    def composed() -> PipelineJob:
        wanted = pipeline_request(request)
        assert wanted is not None
        return PipelineJob.composed(wanted)

    found = composed()
    if measure(found.specs(), output.note):
        found = composed()
    require_stage_rows(found.spec)
    locking.require_files(dict(pipeline_lock.files_of(found.spec, recipe)), lock)
    answers = pipeline_lock.answers(recipe, found.spec)
    for stage in pipeline_lock.asks(found.spec):
        if stage in answers.kept:
            output.note(f"stage {stage} takes its answers from {recipe.with_suffix(locking.ANSWERS)}, and asks nobody")
        else:
            output.warn(f"stage {stage} asks an endpoint, which answers as it likes: what follows from it may differ")
    held = replace(found, answers=answers.kept)
    return Held(held, lock, locking.other_packages(lock), answers.free)


__all__ = ["Held", "Job", "job"]
