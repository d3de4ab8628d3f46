"""Runs side by side: in what they differ, and what came of each, the best first.

Run folders may come from anyone: they are read as `ftcli report` reads them, and nothing acts on what they hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ftcli.build import gate
from ftcli.config.credentials import masked_values
from ftcli.core.errors import ConfigError
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.paths import relative
from ftcli.runs import provenance, rundir
from ftcli.runs.run_state import DONE, FAILED, LOST, PREPARED, STOPPED, run_state
from ftcli.settings.run_spec import RunSpec
from ftcli.sweeps.sweep_folder import Sweep, SweepJob, begun_stages

SCHEMA = 1
State = Literal["done", "running", "stopped", "failed", "lost", "prepared", "pruned", "damaged"]
"""Where a run stands (runs/run_state.py); pruned by a search; damaged: its files are not as ftcli writes them."""
_OWN = frozenset({"run.dir", "run.name", "method.name", "peft.name"})
"""Where a run is and how it is called, and what the choices say already."""
_OF_A_TABLE = ("settings", "held_out", "origin")
"""What a row holds for its table."""
_HELD_OUT = ("path", "revision", "subset", "split", "mix", "format", "columns", "roles", "max_rows", "eval_group")


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run."""

    name: str
    run: str
    """Its folder."""
    state: State
    method: str | None = None
    model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What it was requested to do: `group.key`, and each group's choice."""
    held_out_loss: float | None = None
    score: float | None = None
    score_name: str | None = None
    seconds: float | None = None
    steps: int | None = None
    code: int | None = None
    """The exit code with which it ended; None where it did not."""
    cause: str = ""
    """Why it is not done."""
    held_out: str = ""
    """What its held-out rows are, to compare with those of others."""
    origin: Mapping[str, Any] | None = None
    """Where its numbers come from (runs/provenance.py); None where it has no folder."""

    def to_data(self, differs: Sequence[str]) -> dict[str, Any]:
        """As plain data, with the settings in which it differs."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _OF_A_TABLE}
        return {**data, "differs": {key: self.settings.get(key) for key in differs}, provenance.KEY: self.origin}


@dataclass(frozen=True, kw_only=True)
class RunTable:
    """Runs, the best first."""

    rows: tuple[RunRow, ...]
    differs: tuple[str, ...]
    """The settings in which they differ."""
    measure: Literal["held_out_loss", "score"]
    """By what they are ranked."""
    notes: tuple[str, ...] = ()
    """What keeps their measures from being compared."""

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        rows = [row.to_data(self.differs) for row in self.rows]
        return {
            "schema": SCHEMA,
            "measure": self.measure,
            "differs": [*self.differs],
            "notes": [*self.notes],
            "runs": rows,
        }


def of_sweep(sweep: Sweep, measure: str) -> RunTable:
    """The table of a sweep: its jobs differ in what it varied."""
    rows = [_of_job(sweep, job) for job in sweep.jobs]
    keys = tuple(dict.fromkeys(key for job in sweep.jobs for key in job.varied))
    return _ranked(rows, keys, "score" if measure == "score" else "held_out_loss")


def of_runs(folders: Sequence[Path]) -> RunTable:
    """The table of any runs.

    Raises:
        ConfigError: the folder of one is not as ftcli writes it.
    """
    rows = [row_of(folder) for folder in folders]
    return compared(rows)


def compared(rows: Sequence[RunRow]) -> RunTable:
    """Rows as a table of what they differ in."""
    keys = dict.fromkeys(key for row in rows for key in row.settings)
    differs = [key for key in keys if _differs(key, [row.settings for row in rows if row.settings])]
    by_loss = any(row.held_out_loss is not None for row in rows) or all(row.score is None for row in rows)
    return _ranked(rows, tuple(differs), "held_out_loss" if by_loss else "score")


def _differs(key: str, runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether runs differ in a setting, beyond what the choice of its group says already: LoRA alone has a rank."""
    values = [json.dumps(settings.get(key), sort_keys=True) for settings in runs]
    given = {value for value in values if value != "null"}
    if len(given) != 1:
        return len(given) > 1
    group = key.partition(".")[0]
    choices = [(settings.get(group), value) for settings, value in zip(runs, values, strict=True)]
    return any((choice, "null") in choices for choice, value in choices if value != "null")


def _ranked(rows: Sequence[RunRow], keys: tuple[str, ...], measure: Literal["held_out_loss", "score"]) -> RunTable:
    def place(row: RunRow) -> tuple[bool, bool, float]:
        value = getattr(row, measure)
        nothing = value is None or value != value
        return row.state != "done", nothing, 0.0 if nothing else (-value if measure == "score" else value)

    return RunTable(rows=tuple(sorted(rows, key=place)), differs=keys, measure=measure, notes=tuple(_notes(rows)))


def _notes(rows: Sequence[RunRow]) -> Iterator[str]:
    """What keeps the measures of runs that are done from being compared."""
    done = [row for row in rows if row.state == "done"]
    methods = sorted({str(row.method) for row in done})
    if len(methods) > 1:
        yield f"the held-out losses are of different methods ({', '.join(methods)}), which measure different things"
    if len({row.held_out for row in done}) > 1:
        fix = "data.split_seed draws the same rows whatever the seed, data.eval_path names them"
        yield f"the runs do not hold out the same rows, so their losses and scores do not compare: {fix}"
    scores = sorted({row.score_name for row in done if row.score_name})
    if len(scores) > 1:
        yield f"the scores are different ones: {', '.join(scores)}"


def _of_job(sweep: Sweep, job: SweepJob) -> RunRow:
    """The row of a sweep's job, of which there may be no folder."""
    folder = sweep.run_dir(job)
    varied: dict[str, Any] = {**job.varied}
    begun = rundir.is_run(folder) or rundir.is_pipeline(folder)
    row = row_of(folder, job.name) if begun else RunRow(name=job.name, run=str(folder), state="prepared")
    ended: dict[str, Any] = {"state": job.end, "code": job.code, "cause": job.cause} if job.end else {}
    return RunRow(**{**_shallow(row), **ended, "settings": varied})


def _shallow(row: RunRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in RunRow.__dataclass_fields__}


def row_of(folder: Path, name: str = "") -> RunRow:
    """The row of a run, or of a pipeline, which is judged by its last stage.

    Raises:
        ConfigError: its folder is not as ftcli writes it.
    """
    stages = [*rundir.read_pipeline(folder)["stages"]] if rundir.is_pipeline(folder) else []
    of_model = folder / stages[-1] if stages else folder
    spec = gate.composed_anew(of_model) if rundir.is_run(of_model) else None
    rundir.require_own_files(folder)
    with rundir.stored(folder / rundir.RESULT):
        result = rundir.read_result(folder)
        last = result["stages"][stages[-1]] if result is not None and stages else result
        state, code, cause = _state(folder)
        told = _of_result(last or {})
        return RunRow(
            name=name or relative(folder), run=str(folder), state=state, code=code, cause=cause,
            method=spec.choices["method"] if spec else None,
            model=str(spec.model.name_or_path) if spec else None,
            settings=_settings(spec) if spec else {}, held_out=_held_out(spec) if spec else "",
            origin=provenance.of_folder(folder),
            **told | ({"seconds": _number(result["seconds"])} if result is not None else {}),
        )  # fmt: skip


def _of_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a result measured after training."""
    loss, score = result.get("eval_loss") or {}, result.get("score") or {}
    steps = result.get("steps")
    return {
        "held_out_loss": _number(loss.get("after")),
        "score": _number(score.get("after")),
        "score_name": None if score.get("name") is None else str(score["name"]),
        "seconds": _number(result.get("seconds")),
        "steps": None if steps is None else int(steps),
    }


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _state(folder: Path) -> tuple[State, int | None, str]:
    """How a run stands, the exit code of its last command, and why it is not done."""
    found = run_state(folder)
    if found.name == PREPARED and (stages := begun_stages(folder)):  # how a pipeline stands, its stages tell
        found = run_state(stages[0])
        if found.name == DONE:
            return "stopped", None, f"between two stages, after {stages[0].name}"
    code = found.end.code if found.end is not None else EXIT_DONE if found.name == DONE else None
    why = found.end.text() if found.end is not None else found.text()
    return found.name, code, why if found.name in (STOPPED, FAILED, LOST) else ""  # type: ignore[return-value]


def _settings(spec: RunSpec) -> dict[str, Any]:
    """What a run was requested to do, without passwords: its choices, and each setting by its name."""
    found: dict[str, Any] = {**spec.choices, "seed": spec.seed}
    for group, values in masked_values(spec.tree).items():
        for key, value in (values if isinstance(values, dict) else {}).items():
            if f"{group}.{key}" not in _OWN:
                found[f"{group}.{key}"] = value
    return found


def _held_out(spec: RunSpec) -> str:
    """What the held-out rows of a run are drawn from, and how."""
    data = spec.data
    if data.eval_path is not None:
        found: dict[str, Any] = {"eval_path": data.eval_path}
    else:
        found = {name: getattr(data, name) for name in _HELD_OUT}
        if data.eval_share:
            seed = spec.seed if data.split_seed is None else data.split_seed
            found |= {"eval_share": data.eval_share, "split_seed": seed}
    return json.dumps({**found, "max_eval_rows": data.max_eval_rows}, sort_keys=True, default=str)


def runs_below(root: Path) -> list[Path]:
    """The runs and pipelines below a folder, also those of sweeps, the oldest first."""
    found = []
    for depth in ("*", "*/*", "*/*/*"):
        for path in root.glob(depth):
            if (rundir.is_run(path) or rundir.is_pipeline(path)) and not rundir.is_pipeline(path.parent):
                found.append(path)
    return sorted(found, key=rundir.run_order)


def listed(folders: Sequence[Path]) -> list[RunRow]:
    """A row for each run; one that is not as ftcli writes it is damaged."""
    found = []
    for folder in folders:
        try:
            found.append(row_of(folder))
        except ConfigError as error:
            cause = error.problems[0].what
            found.append(RunRow(name=relative(folder), run=str(folder), state="damaged", cause=cause))
    return found
