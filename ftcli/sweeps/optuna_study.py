"""The search of a sweep, on Optuna: which values the next job has, and whether a job is hopeless.

Its storage is a journal in the sweep's folder. The sampler is made anew for each job, seeded by the job's number, so
that a search which is resumed draws what it would have drawn.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.config.sweep_axes import Axis, Values
from ftcli.core.errors import ConfigError, DiskError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.sweeps.sweep_settings import SweepSettings

if TYPE_CHECKING:
    import optuna

MAX_BYTES = 64 << 20
"""Of a journal: a thousand jobs with a hundred evaluations each take some 20 MiB."""
_NAME = "sweep"
WORSE_THAN_ANY = 1e300
"""In place of a held-out loss that is no number, which Optuna would not compare."""


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        what = "searches with Optuna, which is not installed"
        raise ConfigError(Problem("ftcli sweep", what, "pip install 'ftcli[sweep]'")) from None


class Study:
    """The trials of a search, each a job."""

    def __init__(self, file: Path, settings: SweepSettings, axes: Sequence[Axis]) -> None:
        """Open the journal in a file, or begin it.

        Raises:
            ConfigError: it is not one that Optuna wrote, or of another search.
        """
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._settings, self._axes = settings, axes
        self._values = {axis.key: axis.values for axis in axes if isinstance(axis, Values)}
        self._trials: dict[str, optuna.Trial] = {}
        direction = "maximize" if settings.measure == "score" else "minimize"
        _require_whole(file)
        try:
            storage = JournalStorage(JournalFileBackend(str(file), lock_obj=_Held()))
            self._study = optuna.create_study(
                storage=storage, study_name=_NAME, load_if_exists=True, direction=direction, pruner=_pruner(settings)
            )
            self._begun = [each for each in self._study.get_trials(deepcopy=False) if not each.state.is_finished()]
        except OSError as error:
            raise DiskError.of(error) from None
        except Exception as error:  # whatever it stumbles over in a file that may come from anyone
            what = f"is not the journal of this search: {type(error).__name__}: {error}"
            raise ConfigError(Problem(str(file), what, "start the search again, with another run.dir")) from None

    def count(self) -> int:
        """The jobs so far, whatever became of them."""
        return len(self._study.get_trials(deepcopy=False))

    def has_begun(self) -> bool:
        """Whether there are jobs that a kill or a stop interrupted, and that nobody has asked for since."""
        return bool(self._begun)

    def ask(self) -> tuple[int, dict[str, str]]:
        """The next job: its number, and each setting with its value, as typed. First those that a kill interrupted."""
        import optuna

        if self._begun:
            begun = self._begun.pop(0)
            self._study.sampler = _sampler(self._settings, begun.number)
            trial = optuna.Trial(self._study, begun._trial_id)
        else:
            self._study.sampler = _sampler(self._settings, self.count())
            trial = self._study.ask()
        values = {axis.key: self._value(trial, axis) for axis in self._axes}
        self._trials[str(trial.number)] = trial
        return trial.number, values

    def _value(self, trial: optuna.Trial, axis: Axis) -> str:
        if isinstance(axis, Values):
            return str(trial.suggest_categorical(axis.key, list(axis.values)))
        if axis.whole:
            step = int(axis.step or 1)
            return repr(trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log, step=step))
        return repr(trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log, step=axis.step))

    def is_hopeless(self, number: int, losses: Mapping[int, float]) -> bool:
        """Whether a job is to be stopped.

        Args:
            losses: its held-out loss by step, so far.
        """
        # Asked at each step: between two looks a job may get past all those at which others were measured.
        return any(self._trials[str(number)].should_prune() for _ in self._reported(number, losses))

    def _reported(self, number: int, losses: Mapping[int, float]) -> Iterator[int]:
        """Tell the study what it does not know of a job yet: a step at a time."""
        known = self._study.get_trials(deepcopy=False)[number].intermediate_values
        for step, loss in sorted(losses.items()):
            if step not in known:
                self._trials[str(number)].report(_comparable(loss), step)
                yield step

    def tell(
        self, number: int, value: float | None, *, pruned: bool = False, losses: Mapping[int, float] | None = None
    ) -> None:
        """Take note of the end of a job, with what it measured; None where it failed.

        Args:
            losses: its held-out loss by step. A quick job ends without having been looked at, and others are
                compared with it all the same.
        """
        from optuna.trial import TrialState

        for _ in self._reported(number, losses or {}):
            pass
        if pruned:
            self._study.tell(number, state=TrialState.PRUNED)
        elif value is None or value != value:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, value)


def _comparable(loss: float) -> float:
    return loss if abs(loss) < WORSE_THAN_ANY else WORSE_THAN_ANY


class _Held:
    """The lock of the journal: the sweep holds that of its folder, and a lock of Optuna's would outlive a kill."""

    def acquire(self) -> bool:
        """It is held already."""
        return True

    def release(self) -> None:
        """The sweep does that."""


def _require_whole(file: Path) -> None:
    """Check that a journal may be read, and drop a last line that a kill cut short.

    Raises:
        ConfigError: it is no regular file, or larger than any search's.
    """
    if not os.path.lexists(file):
        return
    try:
        content = foreign_files.read_bytes(file, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise ConfigError(Problem(str(file), f"cannot be read: {error}", "start the search again")) from None
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(file, len(whole))


def _sampler(settings: SweepSettings, number: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    seed = (settings.seed * 1_000_003 + number) % 2**32
    if settings.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=settings.startup_trials)


def _pruner(settings: SweepSettings) -> optuna.pruners.BasePruner:
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if settings.prunes_by == "median":
        return MedianPruner(n_startup_trials=settings.startup_trials)
    return SuccessiveHalvingPruner() if settings.prunes_by == "halving" else NopPruner()
