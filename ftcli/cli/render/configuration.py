"""The composed configuration of a run with its derived values, and the options of a group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ftcli.cli import output
from ftcli.config import group_fields
from ftcli.config.references import escaped
from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import is_builtin
from ftcli.data.path_list import path_text
from ftcli.methods import Pipeline
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import provenance
from ftcli.settings.groups import GROUPS, PLACES
from ftcli.settings.run_spec import RunSpec


def checked(spec: RunSpec, *, as_json: bool) -> None:
    """Print that there are no problems, the choices, and which model and rows are read."""
    if as_json:
        whole = {"problems": [], "choices": dict(spec.choices), "reads": reads(spec)}
        output.data({**whole, provenance.KEY: provenance.of_spec(spec)})
        return
    output.say(f"no problems: {chosen(spec)}")
    output.table([(name.replace("_", " "), text) for name, text in reads(spec).items() if text is not None])


def still_to_be_named(unnamed: Mapping[str, str]) -> None:
    """Say which settings are still to be named, each with the word for what it takes."""
    if unnamed:
        left = " ".join(f"{key}={wanted}" for key, wanted in unnamed.items())
        output.warn(f"still to be named before it can train: {left}")


def chosen(spec: RunSpec) -> str:
    """The choice of each group, or what is read in its stead, as GROUP=CHOICE words."""
    return " ".join(f"{group}={chosen_of(spec, group)}" for group in spec.choices)


def chosen_of(spec: RunSpec, group: str) -> str:
    """The choice of a group, or the model or the rows that were named in its stead: a mixture by its sets' names."""
    choice = spec.choices[group]
    file = assets.choices(group).get(choice)
    if group not in PLACES or file is None:
        return choice
    if group == "data" and spec.data.mix is not None:
        return f"{{mix: {', '.join(spec.data.mix)}}}"
    key = PLACES[group]
    place = getattr(getattr(spec, group), key)
    named = f"{key}: {place}"  # a line of it, since to parse it once more would be most of a check's last step
    return choice if named in file.read_text(encoding="utf-8").splitlines() else path_text(place)


def reads(spec: RunSpec) -> dict[str, str | None]:
    """The model and the rows that a run reads, as a person reads them; None where no rows are held out."""
    data = spec.data
    rows = path_text(data.path)
    if data.mix is not None:
        rows = "; ".join(f"{name}: {path_text(own.get('path'))}" for name, own in data.mix.items())
    held_out: str | None = None
    if data.eval_path is not None:
        held_out = path_text(data.eval_path)
    elif data.eval_share:
        held_out = f"{data.eval_share:g} of the rows"
    elif data.mix is None and is_builtin(data.path):
        held_out = "its held-out rows"
    return {"model": spec.model.name_or_path, "rows": rows, "held_out": held_out}


def _resolved(spec: RunSpec) -> dict[str, Any]:
    whole = dataclasses.asdict(spec)
    return {name: whole[name] for name in (*GROUPS, "run", "seed")}


def configuration(spec: RunSpec, *, as_json: bool) -> None:
    """Print the resolved configuration as YAML, followed by the derived values."""
    if as_json:
        output.data(as_data(spec))
        return
    resolved = escaped(_resolved(spec))  # what is printed can be pasted into a recipe
    import yaml

    output.say(f"# {chosen(spec)}")
    output.text(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True, width=120), end="")
    if spec.notes:
        output.say("# derived:")
        for note in spec.notes:
            output.say(f"#   {note.key}: {note.value}  ({note.why})")


def as_data(spec: RunSpec) -> dict[str, Any]:
    """The resolved configuration, as data."""
    notes = [{"key": note.key, "value": note.value, "why": note.why} for note in spec.notes]
    own = {"choices": dict(spec.choices), "config": _resolved(spec), "derived": notes}
    return {**own, provenance.KEY: provenance.of_spec(spec)}


def pipeline_options(pipeline: Pipeline, *, as_json: bool) -> None:
    """Print the options of a pipeline of its own, and its stages."""
    if as_json:
        entries = [
            {"name": f"method.{name}", "default": each.default, "help": each.text}
            for name, each in pipeline.options.items()
        ]
        output.data({"knobs": entries, "stages": [stage.name for stage in pipeline.stages]})
        return
    for name, each in pipeline.options.items():
        output.say(
            f"method.{name}: {' or '.join(map(str, each.choices)) or 'int'} (default {each.default})\n    {each.text}"
        )
    output.say(f"{pipeline.name} is a pipeline; stages.NAME.method.X sets an option of one stage:")
    output.table(
        [(stage.name, f"method={stage.method}" if stage.method else str(stage.task)) for stage in pipeline.stages]
    )


def group_options(run: ResolvedRun, group: str, *, as_json: bool) -> None:
    """Print every option of a group under the chosen method and PEFT method.

    Raises:
        ConfigError: the group has none, for example peft=none.
    """
    spec, peft = run.spec, run.peft
    fields = group_fields.group_fields(group, run.method, peft)
    if not fields:
        what = f"{group}={spec.choices.get(group)} has no options"
        raise ConfigError(Problem(f"ftcli show {group}", what, "choose another, for example ftcli show peft peft=lora"))
    current = _resolved(spec)[group]
    rows = [
        (name, fields[name], current.get(name))
        for name in sorted(group_fields.settable(group, fields, peft if group == "peft" else None))
    ]
    if as_json:
        entries = [
            {
                "name": f"{group}.{name}",
                "type": field.type_text,
                "default": field.default,
                "value": value,
                "help": field.help,
            }
            for name, field, value in rows
        ]
        output.data({"knobs": entries, provenance.KEY: provenance.of_spec(spec)})
        return
    for name, field, value in rows:
        shown = f"= {value}" if name in current else f"(default {field.default})" if field.default else ""
        output.say(f"{group}.{name}: {field.type_text} {shown}".rstrip())
        if field.help:
            output.say(f"    {' '.join(field.help.split())}")
