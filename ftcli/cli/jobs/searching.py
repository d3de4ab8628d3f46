"""What is checked before a search begins: a job at each end of its space, and that it measures what is looked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ftcli.cli import jobs
from ftcli.cli.jobs.array import goes_to_scheduler
from ftcli.core.errors import ConfigError, Problem
from ftcli.settings.run_spec import RunSpec
from ftcli.sweeps import sweep_request
from ftcli.sweeps.sweep_request import SweepRequest


def checked(wanted: SweepRequest) -> RunSpec:
    """Check a search before it begins; the run of its first job that is judged, of a pipeline the last stage's.

    Raises:
        ConfigError: a point of the space cannot be composed, needs a flag that is not given, or measures nothing.
    """
    from ftcli.build.derive import has_validation
    from ftcli.methods import get_method
    from ftcli.sweeps.optuna_study import require_optuna
    from ftcli.sweeps.search_space import samples

    require_optuna()

    def specs_of(point: Mapping[str, str]) -> Sequence[RunSpec]:
        job = jobs.resolve(replace(wanted.request, overrides=tuple(wanted.words(point))))
        if problems := sweep_request.ungranted(job.flags(), wanted.request.grants, "sweep") if wanted.by_recipe else []:
            raise ConfigError(*problems)
        return job.specs()[-1:]

    first = sweep_request.checked([*samples(wanted.space)], specs_of)
    if goes_to_scheduler(first) and not (wanted.settings.sampler == "random" and wanted.settings.prunes_by == "none"):
        what = "a search learns from each job before it starts the next, and the jobs of an array start all at once"
        fix = "sweep.sampler=random sweep.pruner=none draws them all beforehand, for an array; or start it inside an"
        fix += " allocation (salloc, sbatch), where its jobs run side by side; or list the values with ftcli train -m"
        raise ConfigError(Problem("hardware=slurm", what, fix))
    method = get_method(first.choices["method"])
    if wanted.settings.measure == "score" and (method.score == "none" or not first.run.score_rows):
        raise ConfigError(Problem("sweep.measure=score", "nothing is scored", "run.score_rows=64, or eval_loss"))
    if wanted.settings.measure == "eval_loss" and not has_validation(first.data, method):
        what = "there are no held-out rows, by whose loss a search chooses"
        raise ConfigError(Problem("ftcli sweep", what, "data.eval_share=0.1 holds some out, data.eval_path names them"))
    return first
