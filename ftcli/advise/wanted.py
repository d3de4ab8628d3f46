"""What a user asks advice for: the rows, what is settled already, the hardware, and how long it may take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftcli.advise.data_look import DataLook, looked, only_set
from ftcli.advise.goals import ChosenGoal, goal_of, goal_of_data
from ftcli.advise.situation import Situation
from ftcli.build.fitting import TIGHT
from ftcli.build.resolve import check_values
from ftcli.config.compose import DECLARED, Request, compose
from ftcli.config.overrides import Override, parse
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.gpu_cards import CARDS, card
from ftcli.core.suggest import suggest
from ftcli.data import row_sets
from ftcli.data.path_list import path_text
from ftcli.launch import profile
from ftcli.models.known_shapes import model_shape
from ftcli.models.parameters import num_parameters
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.settings.backends import ROLES
from ftcli.settings.groups import GROUPS, OWN_GROUPS, DataSettings, ModelSettings, SetSettings
from ftcli.settings.run_spec import Notes

_CARD = "hardware.gpu"
_CHOICES = (*GROUPS, *ROLES)
_NOT_TAKEN = {
    "recipe": "advice makes a recipe; ftcli plan recipe=FILE plans one",
    "stages": "a stage is set in the recipe of the advice",
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A request for advice, read and checked."""

    path: str | list[str]
    """The rows, as absolute paths."""
    choices: Mapping[str, str]
    """Groups that the user has chosen."""
    settings: Mapping[str, Any]
    """Settings that the user has made, by dotted name, without the rows and the card."""
    planned_for: tuple[str, ...]
    """The override that names a card which may not be here; it is no setting of a recipe."""
    card: str
    """The hardware in words."""
    situation: Situation
    goal: ChosenGoal
    model: ModelSettings | None
    """The model that the user named."""
    parameters: int | None
    """Its parameters; None where they are unknown, or no model is named."""
    processes: int = 1
    """Processes that it is planned for; several may share what a model takes."""
    roles: frozenset[str] = field(default_factory=frozenset)
    """The roles of pipelines, judge or generator, that the user has given to a model or an endpoint."""
    hours: float | None = None
    config_dirs: tuple[Path, ...] = ()
    grants: frozenset[str] = field(default_factory=frozenset)

    @property
    def look(self) -> DataLook:
        """What is seen in the rows."""
        return self.situation.look

    def data_settings(self) -> dict[str, Any]:
        """The settings of the group `data`."""
        return {name: value for name, value in self.settings.items() if name.startswith("data.")}


def wanted(request: Request, *, goal: str | None, hours: float | None) -> Wanted:
    """A request for advice.

    Raises:
        ConfigError: every problem of what was typed.
        DataError: no row can be used.
    """
    typed = [parse(text) for text in request.overrides]
    problems = [*_problems(typed, hours)]
    if problems:
        raise ConfigError(*problems)
    chosen = {each.name: str(each.value) for each in typed if each.name in _CHOICES and each.name != "data"}
    kept = tuple(each.text for each in typed if each.key[0] not in ("method", "peft", *ROLES))
    composed = compose(Request(overrides=kept, config_dirs=request.config_dirs, grants=request.grants))
    if wrong := check_values(composed):
        raise ConfigError(*wrong)
    _require_roles(request)
    data = DataSettings(**{**composed.tree["data"]})
    if data.mix is not None:
        raise ConfigError(Problem("data.mix", "advice looks at one set", "name it: data.path=FILE"))
    named = [each for each in typed if each.name in ("data", "data.path")]
    look = looked(_row_set(data if named else DataSettings(path=None)))
    hardware = OWN_GROUPS["hardware"](**composed.tree["hardware"])
    launch = profile.launch_plan(hardware, Notes())
    device, room, words = _room(launch)
    named_model = any(each.name in ("model", "model.name_or_path") for each in typed)
    model = ModelSettings(**composed.tree["model"]) if named_model else None
    shape = model_shape(model) if model is not None else None
    how = goal_of(goal, look.kind) if goal is not None else goal_of_data(look.kind, look.checkable is not None)
    situation = Situation(
        look=look,
        goal=how.name,
        device=device,
        room_gib=room,
        base_model=model is not None and model.variant == "base",
        named_model=named_model,
    )
    return Wanted(
        path=row_sets.all_absolute(data.path or ""),
        choices=chosen,
        settings={each.name: each.value for each in typed if _is_setting(each)},
        planned_for=tuple(each.text for each in typed if each.name == _CARD),
        card=words,
        situation=situation,
        goal=how,
        model=model,
        parameters=num_parameters(shape) if shape is not None else None,
        processes=launch.num_processes,
        roles=frozenset(each.key[0] for each in typed if each.key[0] in ROLES),
        hours=hours,
        config_dirs=request.config_dirs,
        grants=request.grants,
    )


def _require_roles(request: Request) -> None:
    """Check what is typed for a judge or a generator, as typed, in a pipeline that has both.

    Raises:
        ConfigError: every problem of it.
    """
    own = [text for text in request.overrides if parse(text).key[0] in ROLES]
    if own:
        words = ("method=rlaif", *own)
        pipeline = pipeline_request(replace(request, overrides=words))
        assert pipeline is not None
        pipeline_spec(pipeline)


def _is_setting(override: Override) -> bool:
    name = override.name
    return name not in _CHOICES and name not in ("data.path", _CARD)


def _problems(typed: list[Override], hours: float | None) -> Iterator[Problem]:
    if hours is not None and not 0 < hours < float("inf"):
        yield Problem(f"--hours {hours:g}", "is no time", "for example --hours 3")
    for each in typed:
        if each.key[0] in _NOT_TAKEN:
            yield Problem(each.text, f"{each.key[0]} is not taken here", _NOT_TAKEN[each.key[0]])
        elif each.delete:
            yield Problem(each.text, "removes a setting of a recipe that does not exist yet", "leave it out")
        elif each.name in DECLARED and each.value not in DECLARED[each.name]:
            fix = suggest(str(each.value), list(DECLARED[each.name]), f"{each.name}=")
            yield Problem(each.text, f"{each.value} is not a choice of {each.name}", fix)
        elif each.name == _CARD and card(str(each.value)) is None:
            yield Problem(
                each.text, f"{each.value} is not a known card", f"one of {', '.join(CARDS)}, or its memory: 24GiB"
            )


def _row_set(data: DataSettings) -> row_sets.RowSet:
    if not data.path:
        return only_set(None, SetSettings(path=""))
    from ftcli.methods import get_method

    [row_set] = row_sets.train_sets(data, get_method("sft"))
    return row_set


def _room(launch: Any) -> tuple[str, float, str]:
    """The device, the memory that a process may take there, and the hardware in words."""
    if launch.device == "cuda" and (cards := profile.cards(launch)):
        least = min(cards, key=lambda each: each.memory_gib)
        several = f"{launch.num_processes} × " if launch.num_processes > 1 else ""
        named = CARDS.get(least.name.lower()) or not card(least.name)
        words = f"{least.name} ({least.memory_gib:.1f} GiB)" if named else f"a card of {least.memory_gib:g} GiB"
        return "cuda", TIGHT * least.memory_gib, f"{several}{words}"
    import psutil

    have = float(psutil.virtual_memory().total) / 2**30
    return "cpu", TIGHT * have / launch.processes_per_node, f"the CPU ({have:.1f} GiB of memory)"


def rows_text(path: str | list[str]) -> str:
    """The rows as a person reads them."""
    return path_text(path)
