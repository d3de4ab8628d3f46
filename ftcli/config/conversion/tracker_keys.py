"""Trackers of other tools: their curves are kept here in the run's folder, and sent nowhere unless that is typed."""

from __future__ import annotations

import importlib.util
from typing import Any

from ftcli.config.conversion.draft import OFF, Draft, Occurrence
from ftcli.settings.trackers import SETTINGS, TRACKERS

_NAMED = ("report_to", "tracker")
_SWITCHES = {"use_wandb": "wandb", "use_mlflow": "mlflow", "use_tensorboard": "tensorboard", "use_trackio": "trackio"}
_PLACES = {
    "wandb_project": ("wandb", "project"),
    "wandb_entity": ("wandb", "entity"),
    "wandb_mode": ("wandb", "mode"),
    "mlflow_experiment_name": ("mlflow", "experiment"),
    "mlflow_tracking_uri": ("mlflow", "tracking_uri"),
    "trackio_project_name": ("trackio", "project"),
    "trackio_space_id": ("trackio", "space_id"),
}
"""Keys that are settings of a tracker here; the first of a tracker switches it on there."""
_SWITCH_ON = ("wandb_project", "mlflow_tracking_uri", "trackio_project_name", "trackio_space_id")
_OF_RUN = ("wandb_name", "wandb_run_name", "wandb_run_id", "mlflow_run_name", "trackio_run_name")
_OTHERS = "wandb_watch wandb_log_model use_swanlab swanlab_project swanlab_run_name swanlab_mode use_comet"
_OFF_HERE = "nothing is reported to a tracker"
_IN_THE_RUN = "kept in the run, under trackers/, and sent nowhere"


def trackers(draft: Draft) -> None:
    """Carry trackers over that are installed here; of the others say how they are added."""
    wanted = _wanted(draft)
    kept = [name for name in wanted if is_installed(name)]
    if kept:
        draft.put("run.trackers", kept)
    for key in _each(draft, *_NAMED, *_SWITCHES):
        names = _names(key)
        if not names:
            draft.mapped(key, why=_OFF_HERE)
        elif kept and all(name in kept for name in names):
            draft.changed(key, f"run.trackers=[{', '.join(names)}]", _IN_THE_RUN)
        else:
            draft.changed(key, "", _added([name for name in names if name not in kept]))
    for name, (tracker, setting) in _PLACES.items():
        for key in _each(draft, name):
            _place(draft, key, tracker, setting, is_kept=tracker in kept)
    for key in _each(draft, *_OF_RUN):
        why = _OFF_HERE if key.value in OFF else ""
        if why:
            draft.mapped(key, why=why)
        else:
            draft.changed(key, "", "trackers show a run under its own name, run.name")
    for key in _each(draft, *_OTHERS.split()):
        if key.value in OFF:
            draft.mapped(key, why=_OFF_HERE)
        else:
            draft.changed(key, "", f"every run keeps its own metrics.jsonl; run.trackers has {', '.join(TRACKERS)}")


def _each(draft: Draft, *names: str) -> list[Occurrence]:
    return [key for name in names for key in draft.named(name) if key.value is not None]


def _names(key: Occurrence) -> list[str]:
    """The trackers that a key switches on, whether they are here or not."""
    if key.name in _SWITCHES:
        return [] if key.value in OFF else [_SWITCHES[key.name]]
    words = key.value if isinstance(key.value, list) else str(key.value).split(",")
    return [word for word in (str(each).strip() for each in words) if word not in OFF]


def _wanted(draft: Draft) -> list[str]:
    found = [name for key in _each(draft, *_NAMED, *_SWITCHES) for name in _names(key)]
    found += [_PLACES[name][0] for name in _SWITCH_ON for key in _each(draft, name) if key.value not in OFF]
    return [*dict.fromkeys(found)]


def is_installed(name: str) -> bool:
    """Whether a tracker can be switched on here."""
    return name in TRACKERS and importlib.util.find_spec(TRACKERS[name].package) is not None


def _added(missing: list[str]) -> str:
    """What is said of trackers that the recipe does not have."""
    here = [name for name in missing if name in TRACKERS]
    if here:
        return f"{TRACKERS[here[0]].remedy}, and add run.trackers=[{', '.join(here)}], which keeps it in the run"
    other = "all" not in missing and ", ".join(missing)
    through = f"; train.report_to={other} reports through transformers" if other else ""
    return f"every run keeps its own metrics.jsonl; run.trackers has {', '.join(TRACKERS)}{through}"


def _place(draft: Draft, key: Occurrence, tracker: str, setting: str, *, is_kept: bool) -> None:
    name, declared = f"{SETTINGS}.{tracker}.{setting}", TRACKERS[tracker].settings[setting]
    if key.value in OFF:
        draft.mapped(key, why=_OFF_HERE)
    elif declared.grant and key.value not in declared.harmless:
        draft.changed(key, "", f"a file sends nothing: {name}=… on the command line, or with {declared.grant}")
    elif not is_kept:
        draft.changed(key, "", _added([tracker]))
    else:
        tracking: dict[str, Any] = draft.settings.setdefault(SETTINGS, {})
        tracking.setdefault(tracker, {})[setting] = str(key.value)
        draft.mapped(key, f"{name}={key.value}")
