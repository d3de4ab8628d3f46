"""The ways that are advised: a method, an adapter and a model, as settings, with what a trial of them found."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.advise.adapter_rules import SIZES, AdapterRule, Size
from ftcli.advise.goals import GOALS
from ftcli.advise.method_rules import BASE, MethodRule
from ftcli.advise.template_fit import another, left_out, template_of
from ftcli.advise.trial import Trial
from ftcli.advise.wanted import Wanted, rows_text
from ftcli.advise.way_text import way_text
from ftcli.core import assets
from ftcli.core.paths import BUILTIN, is_builtin
from ftcli.core.strict_yaml import load
from ftcli.core.text import shell_word
from ftcli.data.files.locate import is_local
from ftcli.data.path_list import join_paths
from ftcli.methods import all_methods
from ftcli.settings.ownership import ENDPOINT

HELD_OUT, ROWS_TO_HOLD_OUT = 0.05, 100
"""The share of the rows that is held out, and the rows from which on it is."""
_OF_STAGES = {"train.per_device_train_batch_size": 1, "train.gradient_checkpointing": True}
"""For the stages of a pipeline on a GPU, whose rows other stages make: however long those become, they fit."""


JUDGE = "judge"
ANOTHER_JUDGE = (
    "a stronger model judges better: type judge.model=MODEL for a model or run here, or judge=openai judge.model=NAME "
    "judge.base_url=URL for an endpoint of OpenAI's form"
)


class LeftOut(Exception):
    """A way that is not offered, with the reason."""


@dataclass
class Draft:
    """A method with an adapter, and the sizes of models that are left to be tried, largest first."""

    method: MethodRule
    adapter: AdapterRule
    points: float
    sizes: list[Size | None] = field(default_factory=list)
    """None stands for the model that the user named."""
    way: Way | None = None

    @property
    def label(self) -> str:
        """Method and adapter, as they are typed."""
        return f"method={self.method.method} peft={self.adapter.adapter}"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One advised way, as a recipe that was checked and planned."""

    wanted: Wanted
    method: MethodRule
    adapter: AdapterRule
    size: Size | None
    choices: Mapping[str, str]
    settings: Mapping[str, Any]
    trial: Trial
    notes: tuple[str, ...] = ()
    """What else it gives up."""

    @property
    def model(self) -> str:
        """The model as a person types it."""
        own = self.wanted.settings.get("model.name_or_path")
        return self.choices.get("model") or str(own)

    @property
    def name(self) -> str:
        """The name of its recipe, without the suffix."""
        parts = (self.method.method, self.adapter.adapter, os.path.basename(self.model.rstrip("/")))
        return re.sub(r"[^\w.-]+", "-", "-".join(parts).lower())

    def rows_outside(self, folder: str) -> bool:
        """Whether the rows lie outside a folder, so that a recipe in it cannot name them."""
        return any(os.path.isabs(path) and relative(path, folder) is None for path in _listed(self.wanted.path))

    def overrides(self, folder: str) -> tuple[str, ...]:
        """What is typed beside the recipe that lies in a folder: the rows, where it cannot name them."""
        if not self.rows_outside(folder):
            return ()
        rows = join_paths(_listed(self.wanted.path))
        return tuple(f"{key}={rows}" for key in row_keys(self.method))

    def recipe(self, folder: str, file: str) -> str:
        """The recipe as it is written into a folder, with paths from there.

        Args:
            file: its name.
        """
        places = [relative(path, folder) or path for path in _listed(self.wanted.path)]
        rows: Any = places if isinstance(self.wanted.path, list) else places[0]
        own = {} if self.rows_outside(folder) else dict.fromkeys(row_keys(self.method), rows)
        return way_text(self.head(self.command("train", file, folder)), self.choices, {**own, **self.settings})

    @property
    def grants(self) -> tuple[str, ...]:
        """The flags that go with the recipe: those that the user gave, and that of an endpoint which was typed."""
        return tuple(sorted({*self.wanted.grants, *([ENDPOINT] if self.trial.endpoint else [])}))

    def command(self, name: str, file: str, folder: str) -> str:
        """The command of that name on the recipe, with what is typed beside it."""
        return " ".join(["ftcli", name, *map(shell_word, (f"recipe={file}", *self.overrides(folder), *self.grants))])

    def head(self, command: str) -> list[str]:
        """The comment at the top of the recipe."""
        goal = GOALS[self.wanted.goal.name].summary.partition(":")[0]
        memory = self.trial.memory_gib
        planned = f"{memory:.1f} GiB" if memory is not None else "memory unknown"
        return [
            f"{goal}: method={self.method.method} with peft={self.adapter.adapter} of {self.model}.   {command}",
            f"Method: {self.method.reason}.",
            f"Adapter: {self.adapter.reason}.",
            *([f"Judge: {self.judge}."] if self.judge else []),
            *(f"Gives up: {text}." for text in self.gives_up()),
            f"Planned for {self.wanted.card}: {planned}, {self.trial.steps} steps (estimate of ftcli plan).",
            f"Rows: {rows_text(self.wanted.look.path)}, {self.wanted.look.rows} of type {self.wanted.look.kind}.",
            *([f"Unusable rows: {self.unusable}."] if self.unusable else []),
            f"Sources: {'; '.join(self.sources())}.",
        ]

    @property
    def unusable(self) -> str:
        """What is to be done about unusable rows, at which a run stops; "" where there are none."""
        look = self.wanted.look
        if not look.unusable or "data.max_bad_share" in self.settings:
            return ""
        share = -(-look.unusable * 1000 // (look.rows + look.unusable)) / 1000
        return f"{look.unusable}, at which a run stops; mend them, or skip them with data.max_bad_share={share:g}"

    @property
    def judge(self) -> str:
        """Who judges the sampled answers, and how another does; "" where nobody judges."""
        if JUDGE not in self.method.roles:
            return ""
        if JUDGE in self.wanted.roles:
            own = {**self.choices, **self.settings}
            return " ".join(f"{key}={value}" for key, value in own.items() if key.partition(".")[0] == JUDGE)
        return f"{self.model} itself; {ANOTHER_JUDGE}"

    def gives_up(self) -> tuple[str, ...]:
        """What the way gives up, by its method, its adapter, and what had to be made smaller."""
        made = "sampling and judging, which are stages of their own, are in neither the planned memory nor the time"
        return (self.method.gives_up, self.adapter.gives_up, *([made] if self.trial.fed else []), *self.notes)

    def sources(self) -> tuple[str, ...]:
        """The papers that its rules cite."""
        return tuple(dict.fromkeys((*self.method.sources, *self.adapter.sources)))


def relative(path: str, folder: str) -> str | None:
    """A local path from a folder that it lies in; None where it lies elsewhere; anything else unchanged."""
    if is_builtin(path) or not is_local(path):
        return path
    base = os.path.realpath(folder)
    inside = os.path.realpath(path).startswith(base.rstrip(os.sep) + os.sep)
    return os.path.relpath(os.path.realpath(path), base) if inside else None


def _listed(path: str | list[str]) -> list[str]:
    return [path] if isinstance(path, str) else list(path)


def row_keys(rule: MethodRule) -> tuple[str, ...]:
    """The settings that name the rows."""
    return tuple(f"stages.{stage}.data.path" for stage in rule.reads) or ("data.path",)


def name_of(choice: str) -> str:
    """The hub id, or the folder, of a choice of `model`."""
    return str(load(assets.choices("model")[choice]).data["name_or_path"])


def composed_way(draft: Draft, size: Size | None, wanted: Wanted) -> tuple[dict[str, str], dict[str, Any]]:
    """The choices and settings of a way, without the rows; what the user has settled goes first.

    Raises:
        LeftOut: no chat template writes what the rows hold.
    """
    rule, adapter = draft.method, draft.adapter
    choices, settings = {"method": rule.method}, dict[str, Any]()
    if size is not None:
        choices["model"] = size.base if rule.start == BASE else size.instruct
        start = name_of(choices["model"])
    else:
        assert wanted.model is not None
        start = BUILTIN if wanted.model.name_or_path == BUILTIN else wanted.model.name_or_path
        if "model" in wanted.choices:
            choices["model"] = wanted.choices["model"]
    if adapter.adapter != "none":
        choices["peft"] = adapter.adapter
    settings |= {f"stages.{stage}.model": start for stage in rule.ready}
    settings |= {**rule.settings, **adapter.settings}
    settings |= dict(rule.of_rows(wanted.look)) if rule.of_rows is not None else {}
    for stage in rule.as_prompts:
        settings |= {f"stages.{stage}.{name}": value for name, value in (wanted.look.as_prompts or {}).items()}
    if rule.teacher and size is not None:
        settings["method.teacher_model"] = name_of(_larger(size).instruct)
    if not rule.stages:
        settings |= {**dict(_held_out(rule, wanted)), **dict(_template(size, wanted))}
    if wanted.situation.device == "cuda" or not rule.stages:
        own = _OF_STAGES if rule.stages else {"train.per_device_train_batch_size": "auto"}
        settings |= {name: value for name, value in own.items() if name not in wanted.settings}
    settings |= dict(wanted.settings)
    return {**choices, **{key: value for key, value in wanted.choices.items() if key != "data"}}, settings


def _larger(size: Size) -> Size:
    return SIZES[max(0, SIZES.index(size) - 1)]


def _template(size: Size | None, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """Another chat template, where that of the model leaves out what the rows hold.

    Raises:
        LeftOut: the user named the template, or none writes it.
    """
    template, folder = template_of(wanted.model if size is None else None, size.template if size is not None else "")
    lost = left_out(template, folder, wanted.look) if template is not None else ()
    if not lost:
        return
    name = None if "model.chat_template" in wanted.settings else another(folder, wanted.look)
    if name is None:
        raise LeftOut(f"the model's chat template writes no {' and no '.join(lost)}, which the rows have")
    yield "model.chat_template", name


def _held_out(rule: MethodRule, wanted: Wanted) -> Iterator[tuple[str, Any]]:
    """A share of the rows for validation, where they are many enough and an evaluation samples no answers."""
    given = any(name.startswith(("data.eval", "data.streaming")) for name in wanted.settings)
    if given or all_methods()[rule.method].samples or wanted.look.rows < ROWS_TO_HOLD_OUT:
        return
    if wanted.path == BUILTIN or is_builtin(str(wanted.path)):
        return  # a built-in set has rows of its own for it
    yield "data.eval_share", HELD_OUT
