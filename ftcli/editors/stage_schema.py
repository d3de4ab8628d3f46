"""What a recipe may set of a pipeline: its options, and of each stage."""

from __future__ import annotations

import itertools
import re
from typing import Any

from ftcli.config.recipe_file import OF_STAGE
from ftcli.editors.field_schema import NOTHING, REFERENCE, Schema, closed, field_schema
from ftcli.editors.mapping_schema import of_mapping
from ftcli.methods import Pipeline
from ftcli.methods.pipeline import MEASURE, Option, Stage
from ftcli.settings.backends import ROLES
from ftcli.settings.groups import GROUPS
from ftcli.settings.library_fields import fields_of
from ftcli.synthesis.tasks import SETTINGS

_REUSED = {"type": "string", "description": "The finished run or model that replaces this stage."}


def options_schema(pipeline: Pipeline) -> Schema:
    """The options `method.NAME` of a pipeline."""
    keys: dict[str, Any] = {"name": {"const": pipeline.name}}
    keys |= {name: _option(option) for name, option in pipeline.options.items()}
    return {**closed(keys), "type": ["object", "null"]}


def _option(option: Option) -> Schema:
    values = {"enum": [*option.choices]} if option.choices else {"type": "integer", "minimum": 1}
    return {**values, "description": option.text, "default": option.default}


def stages_schema(pipeline: Pipeline) -> list[Schema]:
    """What a recipe of a pipeline may have below `stages`, for each way in which its options arrange them."""
    options = {name: option for name, option in pipeline.options.items() if name != MEASURE}
    found = []
    for values in itertools.product(*(option.choices or (_ROUNDS,) for option in options.values())):
        chosen = dict(zip(options, values, strict=True))
        stages = {stage.name: of_stage(stage) for stage in pipeline.arranged(chosen).stages}
        numbered = {name: each for name, each in stages.items() if name.endswith(f"_{_ROUNDS}")}
        patterns = {f"^{re.escape(name[: -len(str(_ROUNDS))])}[0-9]+$": each for name, each in numbered.items()}
        plain = {name: each for name, each in stages.items() if name not in numbered}
        keys = {"properties": {"stages": closed(plain, **({"patternProperties": patterns} if patterns else {}))}}
        asked = [_has(name, value, options[name]) for name, value in chosen.items() if options[name].choices]
        found.append({"if": {"allOf": asked}, "then": keys} if asked else keys)
    return found


_ROUNDS = 2
"""Rounds that stand for any number of them: stages of the second and later ones end in its number."""


def _has(name: str, value: Any, option: Option) -> Schema:
    """A recipe that sets an option to a value, or leaves it at that."""
    named = {"required": ["method"], "properties": {"method": {"type": "object", "required": [name]}}}
    has = {
        "required": ["method"],
        "properties": {"method": {"required": [name], "properties": {name: {"const": value}}}},
    }
    return {"anyOf": [has, {"not": named}]} if value == option.default else has


def of_stage(stage: Stage) -> Schema:
    """The settings of one stage: those of a run of its method, or of its synthesis task."""
    keys: dict[str, Any] = {"defaults": {"$ref": "#/$defs/defaults"}, "seed": {"$ref": "#/$defs/seed"}}
    if stage.role:
        keys[stage.role] = of_mapping("backend")
    if stage.task:
        settings = fields_of(f"ftcli.synthesis.tasks:{SETTINGS[stage.task].__name__}")
        rows = fields_of("ftcli.settings.groups:DataSettings")
        keys["make"] = closed({name: field_schema(f"make.{name}", field) for name, field in settings.items()})
        keys["data"] = closed({name: field_schema(f"data.{name}", rows[name]) for name in ("path", "max_rows")})
        return closed(keys, description=stage.summary)
    keys |= {group: {"$ref": f"#/$defs/group.{group}"} for group in (*GROUPS, "run") if group not in ("method", "peft")}
    keys["model"] = {"anyOf": [keys["model"], _REUSED, REFERENCE]}
    keys["method"], keys["peft"] = {"$ref": f"#/$defs/method.{stage.method}"}, {"type": ["object", "null"]}
    keys |= {key: NOTHING for key in OF_STAGE if key not in keys and key not in ROLES}
    return closed(keys, description=stage.summary, allOf=[{"$ref": "#/$defs/own_adapter"}])
