"""The gate of a run: its retention set measured before and after training, and what fails it.

What was measured before training is kept in RUN/retention.json, so that a resumed run compares with the model that it
began with, not with a half-trained one.
"""

from __future__ import annotations

from typing import Any

from torch import distributed

from ftcli.core.errors import ConfigError, GateFailed, Problem
from ftcli.core.text import shell_word
from ftcli.core.untrusted.foreign_files import read_object
from ftcli.evaluations.retention import RetentionSet, failures, read_set
from ftcli.runs import rundir
from ftcli.worker.distributed.sharded import whole_model
from ftcli.worker.measures.retained import BATCH, Values, compared, retained, well_formed
from ftcli.worker.process.activity import phase

BEFORE = "retention.json"


class Gate:
    """What a run shall keep."""

    def __init__(self, run: Any, trainer: Any) -> None:
        """
        Args:
            run: what it has loaded.

        Raises:
            ConfigError: its retention set cannot be read.
        """
        self._run, self._trainer = run, trainer
        self._rows: RetentionSet | None = read_set(run.spec.run.retention) if run.spec.run.retention else None
        self._before: Values = {}

    def before(self, *, resumed: bool) -> Gate:
        """Measure the starting model, or read what was measured of it; this gate, which then knows.

        Raises:
            ConfigError: a resumed run does not know, or has another set now.
            DataError: the chat template refuses a row.
        """
        if self._rows is None:
            return self
        file = self._run.run_dir / BEFORE
        if not resumed:
            self._before = self._measured("measuring what shall be kept")
            if self._run.is_first:
                kept = {"set": self._rows.name, "digest": self._rows.digest, "before": self._before}
                rundir.write_json(file, kept)
            return self
        fix = f"start a new run with ftcli train --from {shell_word(self._run.run_dir)}"
        found = read_object(file, fix)
        same, values = found.get("digest", self._rows.digest) == self._rows.digest, found.get("before", {})
        if not same:
            raise ConfigError(Problem(str(file), "was measured on other rows than run.retention has now", fix))
        if not well_formed(values, self._rows):
            raise ConfigError(Problem(str(file), "does not say what the run began with", fix))
        self._before = values
        return self

    def after(self) -> dict[str, Any]:
        """What was gained and lost, and how the run fails its gate, for result.json; {} where nothing was asked."""
        if self._rows is None:
            return {}
        found = compared(self._rows, self._before, self._measured("measuring what was kept"))
        gate = self._run.spec.run.gate or {}
        return {"retention": {**found, **({"gate": gate, "failed": failures(gate, found)} if gate else {})}}

    def _measured(self, doing: str) -> Values:
        run, trainer = self._run, self._trainer
        assert self._rows is not None
        limit = run.data.fit.position_limit
        with phase(doing), whole_model(trainer, trainer.model_wrapped) as model, trainer.compute_loss_context_manager():
            # As many rows together as an evaluation has, so that it needs no more memory than training.
            found = [retained(model, run.encoder, self._rows, limit, run.score_batch or BATCH)]
        if run.config.world_size > 1:  # so that all agree, to the last bit
            distributed.broadcast_object_list(found, src=0)
        return found[0]


def judge(result: dict[str, Any], run_dir: Any) -> None:
    """Fail a run that is whole, after it was saved.

    Raises:
        GateFailed: it lost more than its gate takes.
    """
    failed = (result.get("retention") or {}).get("failed") or ()
    if failed:
        fix = f"ftcli report {shell_word(run_dir)} says what was lost; train with a lower rate, fewer steps or replay"
        raise GateFailed(*(Problem(str(run_dir), f"the gate was not passed: {each}", fix) for each in failed))
