"""What is wrong with the trackers of a run, and with the integrations of transformers that it reports to."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ftcli.core.errors import Problem
from ftcli.core.suggest import suggest
from ftcli.settings import ownership
from ftcli.settings.tracker_declaration import Tracker, TrackerSetting
from ftcli.settings.trackers import SETTINGS, TRACKERS, wanted

_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
Where = Callable[[str], str]
"""The place of a setting, by its name with dots."""


def problems(trackers: Any, tracking: Any, report_to: Any, where: Where) -> Iterator[Problem]:
    """What is wrong with `run.trackers`, `run.tracking`, and the two beside `train.report_to`."""
    names = wanted(trackers)
    for index, name in enumerate(names):
        if name not in TRACKERS:
            yield Problem(where("run.trackers"), f"{name} is no tracker", suggest(name, TRACKERS, "run.trackers="))
        elif name in names[:index]:
            yield Problem(where("run.trackers"), f"run.trackers names {name} twice", "name it once")
        elif reported := {name, "all"}.intersection(wanted(report_to)):
            what = f"run.trackers={name} keeps what train.report_to={min(reported)} reports once more"
            yield Problem(where("train.report_to"), what, "keep run.trackers, and remove it here")
        elif (package := TRACKERS[name].package) and not _is_installed(package):
            what = f"run.trackers={name} needs the package {package}, which is not installed"
            yield Problem(where("run.trackers"), what, TRACKERS[name].remedy or f"pip install {package}")
    for name, settings in (tracking if isinstance(tracking, Mapping) else {}).items():
        key = f"{SETTINGS}.{name}"
        if name not in TRACKERS:
            yield Problem(where(key), f"{name} is no tracker", suggest(str(name), TRACKERS, f"{SETTINGS}."))
        elif settings is not None and not isinstance(settings, Mapping):
            yield Problem(where(key), f"{key} is {settings!r}, and no settings", f"{key}.SETTING=VALUE")
        elif settings and name not in names:
            fix = f"add it: run.trackers=[{', '.join([*names, str(name)])}], or remove its settings"
            yield Problem(where(key), f"{key} has no effect: run.trackers does not name {name}", fix)
        else:
            yield from _of_tracker(TRACKERS[str(name)], settings or {}, where)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _of_tracker(tracker: Tracker, settings: Mapping[str, Any], where: Where) -> Iterator[Problem]:
    for key, value in settings.items():
        name = f"{SETTINGS}.{tracker.name}.{key}"
        setting = tracker.settings.get(key)
        if setting is None:
            fix = (
                suggest(str(key), tracker.settings, f"{SETTINGS}.{tracker.name}.") if tracker.settings else "remove it"
            )
            yield Problem(where(name), f"{name} is no setting of {tracker.name}", fix)
        elif value is not None and (fault := value_fault(setting, value)):
            yield Problem(where(name), f"{name} is {value!r}, which is not {fault}", setting.text)
        elif value is not None and not _has_effect(tracker, settings, setting):
            needed = setting.needs.removesuffix("=*")
            fix = f"set {SETTINGS}.{tracker.name}.{needed}, or remove it"
            yield Problem(where(name), f"{name} is read only with {SETTINGS}.{tracker.name}.{needed}", fix)


def value_fault(setting: TrackerSetting, value: Any) -> str:
    """What a value is not; "" where it is."""
    if setting.choices:
        return "" if value in setting.choices else f"one of {', '.join(setting.choices)}"
    number = setting.type in (int, float) and isinstance(value, (int, setting.type))
    fits = isinstance(value, bool) is (setting.type is bool) and (number or isinstance(value, setting.type))
    if fits and setting.type is str and not value.strip():
        return "text"
    if fits and setting.address and not value.startswith(("http://", "https://")):
        return "an address that begins with http:// or https://"
    return "" if fits else _NAMES[setting.type]


def _has_effect(tracker: Tracker, settings: Mapping[str, Any], setting: TrackerSetting) -> bool:
    name, _, value = setting.needs.partition("=")
    found = tracker.given(settings).get(name)
    return not name or (found not in (None, False) if value == "*" else str(found) == value)


def reporter_problems(report_to: Any, where: Where) -> Iterator[Problem]:
    """`train.report_to` names integrations of transformers, each of which needs its own package."""
    for name in wanted(report_to):
        if name in ("none", "all"):
            continue
        if name not in ownership.REPORTERS:
            fix = suggest(name, ownership.REPORTERS, "")
            yield Problem(where("train.report_to"), f"{name} is not a value of train.report_to", fix)
        elif not _is_installed(ownership.REPORTERS[name]):
            package = ownership.REPORTERS[name]
            what = f"train.report_to={name} needs the package {package}, which is not installed"
            fix = f"pip install {package}, or remove it: every run keeps its own metrics.jsonl"
            yield Problem(where("train.report_to"), what, fix)
