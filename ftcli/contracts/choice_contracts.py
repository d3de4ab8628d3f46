"""The contracts of methods, PEFT methods and hardware profiles, each a choice of a group, and of trackers."""

from __future__ import annotations

from collections.abc import Iterator

from ftcli.contracts import common_contracts
from ftcli.core.errors import Problem
from ftcli.data.formats.registry import DATASET_TYPES
from ftcli.launch.profile import Profile
from ftcli.methods import Method
from ftcli.peft_methods import PeftMethod
from ftcli.settings.library_fields import TRAINING_ARGUMENTS, fields_of
from ftcli.settings.ownership import FLAGS
from ftcli.settings.tracker_declaration import Tracker, TrackerSetting
from ftcli.settings.tracker_problems import value_fault

_ROLES = ("policy", "reference", "reward", "value", "teacher")
_TASKS = ("pretrain", "sft", "instruct", "preference", "prompts")
_HEADS = ("causal_lm", "reward_model")
_SCORES = ("exact_match", "preference_accuracy", "mean_reward", "none")


def method_problems(name: str, method: object, where: str) -> Iterator[Problem]:
    """What is wrong with the declaration of a method."""
    if not isinstance(method, Method):
        yield Problem(where, f"METHOD is {type(method).__name__}, and no Method", "METHOD = Method(…)")
        return
    broken = [
        *common_contracts.name_problems("method", name, method.name, where),
        *common_contracts.class_problems("config", method.config, where, has_fields=True),
    ]
    yield from broken
    yield from common_contracts.summary_problems("method", method.summary, where)
    yield from common_contracts.class_problems("trainer", method.trainer, where)
    yield from common_contracts.one_of("kind", method.kinds, DATASET_TYPES, where)
    yield from common_contracts.one_of("role", method.roles, _ROLES, where)
    yield from common_contracts.one_of("head", [method.head], _HEADS, where)
    yield from common_contracts.one_of("score", [method.score], _SCORES, where)
    yield from common_contracts.one_of("task", [method.task], _TASKS, where)
    if broken:
        return
    own = {*fields_of(TRAINING_ARGUMENTS), *fields_of(method.config)}
    for what in ("defaults", "fixed", "without", "limits"):
        yield from common_contracts.field_problems(what, getattr(method, what), method.config, where, own)
    missing = [*common_contracts.choice_problems("method", name, where)]
    yield from missing
    if not missing:
        teacher = ["method.teacher_model=builtin:tiny"] if "teacher" in method.roles else []
        yield from common_contracts.composed_problems([f"method={name}", "hardware=cpu", *teacher], where)


def peft_problems(name: str, peft: object, where: str) -> Iterator[Problem]:
    """What is wrong with the declaration of a PEFT method."""
    if not isinstance(peft, PeftMethod):
        yield Problem(where, f"METHODS holds a {type(peft).__name__}, and no PeftMethod", "METHODS = (PeftMethod(…),)")
        return
    broken = [*common_contracts.class_problems("config", peft.config, where, has_fields=True)]
    broken += common_contracts.class_problems("own settings", peft.own, where, has_fields=True) if peft.own else []
    yield from broken
    yield from common_contracts.summary_problems("PEFT method", peft.summary, where)
    if peft.support:
        yield from common_contracts.class_problems("support", peft.support, where)
    if broken:
        return
    for what in ("defaults", "fixed", "owned", "limits"):
        yield from common_contracts.field_problems(what, getattr(peft, what), peft.config, where, peft.fields())
    missing = [*common_contracts.choice_problems("peft", name, where)]
    yield from missing
    if not missing and not (peft.own and peft.kind == ""):  # which its settings have to name first
        yield from common_contracts.composed_problems([f"peft={name}", "hardware=cpu"], where)


def profile_problems(name: str, profile: object, where: str) -> Iterator[Problem]:
    """What is wrong with the declaration of a hardware profile."""
    if not isinstance(profile, Profile):
        yield Problem(where, f"PROFILE is {type(profile).__name__}, and no Profile", "PROFILE = Profile(…)")
        return
    yield from common_contracts.name_problems("profile", name, profile.name, where)
    yield from common_contracts.summary_problems("profile", profile.summary, where)
    yield from common_contracts.field_problems("train", profile.train, TRAINING_ARGUMENTS, where)
    missing = [*common_contracts.choice_problems("hardware", name, where)]
    yield from missing
    if not missing and profile.name == name and not profile.spans:
        yield from common_contracts.composed_problems([f"hardware={name}"], where)


def tracker_problems(name: str, tracker: object, where: str) -> Iterator[Problem]:
    """What is wrong with the declaration of a tracker."""
    if not isinstance(tracker, Tracker):
        yield Problem(where, f"TRACKER is {type(tracker).__name__}, and no Tracker", "TRACKER = Tracker(…)")
        return
    broken = [*_tracker_form(name, tracker, where)]
    yield from broken
    if not broken:
        yield from common_contracts.composed_problems([f"run.trackers={name}"], where)


def _tracker_form(name: str, tracker: Tracker, where: str) -> Iterator[Problem]:
    yield from common_contracts.name_problems("tracker", name, tracker.name, where)
    yield from common_contracts.summary_problems("tracker", tracker.summary, where)
    yield from common_contracts.class_problems("writer", tracker.writer, where)
    if tracker.package and not tracker.remedy:
        yield Problem(where, f"needs {tracker.package} and does not say how to install it", "remedy='pip install …'")
    for key, setting in tracker.settings.items():
        if not isinstance(setting, TrackerSetting):
            yield Problem(where, f"its setting {key} is {setting!r}", "TrackerSetting(text='What it says.')")
            continue
        yield from common_contracts.summary_problems(f"setting {key}, its text,", setting.text, where)
        if setting.default is not None and (fault := value_fault(setting, setting.default)):
            what = f"its setting {key} has the default {setting.default!r}, which is not {fault}"
            yield Problem(where, what, "mend it")
        if setting.grant:
            yield from common_contracts.one_of("grant", [setting.grant], FLAGS, where)
        elif setting.address or setting.harmless:
            what = f"its setting {key} sends to an address, and a file could set it without a flag"
            yield Problem(where, what, "grant=ENDPOINT, of ftcli.settings.ownership")
        if setting.needs:
            needed = setting.needs.partition("=")[0]
            yield from common_contracts.one_of(f"setting that {key} needs", [needed], tracker.settings, where)
