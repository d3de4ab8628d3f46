"""The JSON Schema of recipes (draft 2020-12), made of the declarations that recipes are checked by.

The keys of `method` and `peft` depend on what `defaults` chooses, so the schema asks what it chooses, and takes the
choice of configs/config.yaml where it chooses none. Of a pipeline each stage has the keys of its own method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcli.config.group_fields import group_fields, method_fields, settable
from ftcli.config.recipe_file import SCHEMA_VERSION
from ftcli.core import assets
from ftcli.core.strict_yaml import load
from ftcli.editors.field_schema import NOTHING, Schema, closed, field_schema
from ftcli.editors.mapping_schema import backend_schema, mix_schema, of_mapping
from ftcli.editors.stage_schema import options_schema, stages_schema
from ftcli.editors.sweep_schema import sweep_schema
from ftcli.methods import Method, Pipeline, all_methods, all_pipelines, get_method
from ftcli.peft_methods import PEFT_METHODS, PeftMethod
from ftcli.peft_methods.other import IMPOSSIBLE, own_choices, tuner_configs
from ftcli.settings.backends import ROLES
from ftcli.settings.groups import GROUPS
from ftcli.settings.library_fields import fields_of
from ftcli.settings.limits import LIMITS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_OWN = ("model", "data", "quantisation", "hardware", "run")
"""Groups that have the same keys under every choice."""
_WHAT = {
    "ftcli": "The schema version that the recipe is written for.",
    "defaults": "One choice a group, each on a line of its own: `- method: dpo`.",
    "seed": "Every random choice of a run comes from this number.",
    "stages": "Settings of single stages of a pipeline, by the stage's name.",
    "sweep": "What `ftcli sweep` searches, and how; a single run leaves it out with ~sweep.",
}


def recipe_schema(choices: Mapping[str, str] | None = None, config_dirs: Sequence[Path] = ()) -> Schema:
    """The schema of every recipe, or of the recipes that make these choices.

    Args:
        choices: of method and peft; one that is not named is that of configs/config.yaml.
        config_dirs: folders with further group files, whose choices count too.
    """
    known = {group: assets.choices(group, extra=tuple(config_dirs)) for group in (*GROUPS, *ROLES)}
    definitions = {
        "reference": {"type": "string", "pattern": r"\$\{", "description": "The value of another setting."},
        "set": mix_schema(),
        "backend": backend_schema(),
        "own_adapter": {"allOf": [_by_own_choice(peft) for peft in ("none", *PEFT_METHODS)]},
        "defaults": _defaults(known),
        "seed": _seed(),
        **{f"group.{group}": _own_group(group) for group in (*_OWN, "train")},
        **{f"peft.{name}": _peft(peft) for name, peft in (("none", None), *PEFT_METHODS.items())},
        **{f"method.{method.name}": _method(method) for method in all_methods().values()},
        **{f"method.{each.name}": options_schema(each) for each in all_pipelines().values()},
    }
    root = _root_choices()
    whole: Schema = {
        "$schema": DIALECT,
        "title": "A recipe of ftcli",
        **closed(_top_level(), required=["ftcli"]),
        "allOf": [
            *_by_choice("method", [*all_methods(), *all_pipelines()], _of_method, root, choices),
            *_by_choice("peft", ["none", *PEFT_METHODS], _of_peft, root, choices),
        ],
    }
    whole["$defs"] = _used(whole, definitions)
    return whole


def _top_level() -> Schema:
    """The keys of a recipe; what those of `method`, `peft` and the pipelines' hold, the choices say."""
    keys: Schema = {
        "ftcli": {"enum": [*range(1, SCHEMA_VERSION + 1)]},
        "defaults": {"$ref": "#/$defs/defaults"},
        **{group: {"$ref": f"#/$defs/group.{group}"} for group in (*_OWN, "train")},
        **{key: {"type": ["object", "null"]} for key in ("method", "peft", *ROLES)},
        "seed": {"$ref": "#/$defs/seed"},
        "stages": {"type": "object"},
        "sweep": sweep_schema(),
    }
    return {key: {**value, "description": _WHAT[key]} if key in _WHAT else value for key, value in keys.items()}


def _root_choices() -> Mapping[str, str]:
    root = load(assets.CONFIGS / "config.yaml", "configs/config.yaml").data
    return {group: choice for entry in root["defaults"] for group, choice in entry.items()}


# --- choices ----------------------------------------------------------------------------------------------------------


def _defaults(known: Mapping[str, Mapping[str, Path]]) -> Schema:
    groups = {
        group: {"anyOf": [{"const": name, "description": assets.first_comment(path)} for name, path in files.items()]}
        for group, files in known.items()
    }
    return {"type": "array", "items": closed(groups, minProperties=1, maxProperties=1)}


def _chooses(group: str, choice: str | None = None) -> Schema:
    """A recipe, or a stage of one, whose defaults choose this of a group, or anything where no choice is named."""
    entry: Schema = {"required": [group]}
    if choice is not None:
        entry["properties"] = {group: {"const": choice}}
    return {"required": ["defaults"], "properties": {"defaults": {"contains": entry}}}


def _by_choice(
    group: str,
    names: Iterable[str],
    then: Callable[[str], Schema],
    root: Mapping[str, str],
    choices: Mapping[str, str] | None,
) -> list[Schema]:
    """What each choice of a group asks of a recipe; where the choices are known, that of the chosen one alone."""
    if choices is not None:
        return [then(choices.get(group, root[group]))]
    found = []
    for name in names:
        asked = _chooses(group, name)
        if name == root[group]:
            asked = {"anyOf": [asked, {"not": _chooses(group)}]}
        found.append({"if": asked, "then": then(name)})
    return found


def _of_method(name: str) -> Schema:
    """What a method, or a pipeline, asks of a recipe that chooses it."""
    pipeline: Pipeline | None = all_pipelines().get(name)
    keys: Schema = {"method": {"$ref": f"#/$defs/method.{name}"}}
    if pipeline is None:
        return {"properties": {**keys, **dict.fromkeys((*ROLES, "stages"), NOTHING)}}
    roles = {role: of_mapping("backend") for role in ROLES}
    return {"properties": {**keys, **roles}, "allOf": stages_schema(pipeline)}


def _by_own_choice(peft: str) -> Schema:
    """What a stage that chooses its own adapter may set of it."""
    return {"if": _chooses("peft", peft), "then": {"properties": {"peft": {"$ref": f"#/$defs/peft.{peft}"}}}}


def _of_peft(name: str) -> Schema:
    """What an adapter asks of a recipe that chooses it, and of the stages that choose no other."""
    keys = {"peft": {"$ref": f"#/$defs/peft.{name}"}}
    stage = {"if": {"not": _chooses("peft")}, "then": {"properties": keys}}
    return {"properties": {**keys, "stages": {"additionalProperties": stage}}}


# --- groups -----------------------------------------------------------------------------------------------------------


def _own_group(group: str) -> Schema:
    """A group whose keys no choice changes."""
    fields = group_fields(group, get_method("sft"), None)
    names = [name for name in settable(group, fields) if f"{group}.{name}" != "quantisation.type"]
    keys = {name: field_schema(f"{group}.{name}", fields[name], LIMITS.get(f"{group}.{name}")) for name in names}
    if group == "data":
        keys["mix"] = {**of_mapping("mix"), "description": keys["mix"]["description"]}
    return _or_nothing(keys)


def _method(method: Method) -> Schema:
    """The options of a method."""
    fields, preset = method_fields(method), load(assets.choices("method")[method.name]).data
    keys: Schema = {"name": {"const": method.name}}
    for name in settable("method", fields):
        schema = field_schema(f"method.{name}", fields[name], method.limit_of(name), preset.get(name))
        inside = {"rewards": "rewards", "judge": "backend"}.get(name)
        keys[name] = {**of_mapping(inside), "description": schema["description"]} if inside else schema
    return _or_nothing(keys)


def _peft(peft: PeftMethod | None) -> Schema:
    """The options of an adapter: one mapping, or one for each of its forms that have other options."""
    if peft is None:
        return _or_nothing({"name": {"const": "none"}})
    preset = load(assets.choices("peft")[peft.name]).data
    found = []
    for form in _forms(peft):
        resolved, keys = peft.resolved(form), dict[str, Any](name={"const": peft.name})
        fields = {name: each for name, each in resolved.fields().items() if name not in resolved.owned}
        for name in settable("peft", fields):
            limit = resolved.limits.get(name) or LIMITS.get(f"peft.{name}")
            keys[name] = field_schema(f"peft.{name}", fields[name], limit, preset.get(name))
        keys |= {name: {"const": value} for name, value in resolved.fixed.items()}
        keys |= {name: {**keys[name], "enum": [value]} for name, value in form.items()}
        needs = [name for name, value in form.items() if value]
        found.append(_or_nothing(keys, **({"required": needs} if needs else {})))
    return found[0] if len(found) == 1 else {"anyOf": found}


def _forms(peft: PeftMethod) -> list[dict[str, Any]]:
    """Settings of ours that choose another config class, so that other options exist; one {} where none does."""
    if peft.variant is None or peft.own is None:
        return [{}]
    own = fields_of(peft.own)
    if "type" in own:
        usable = (kind for kind in tuner_configs() if kind not in own_choices() and kind not in IMPOSSIBLE)
        return [{"type": kind} for kind in usable]
    switches = [name for name, each in own.items() if each.type_text == "bool"]
    return [dict.fromkeys(switches, value) for value in (False, True)]


def _or_nothing(keys: Mapping[str, Any], **more: Any) -> Schema:
    """A closed mapping of settings; nothing below its key sets nothing."""
    return {**closed(keys, **more), "type": ["object", "null"]}


def _seed() -> Schema:
    limit = LIMITS["seed"]
    number = {"type": "integer", "minimum": limit.low, "maximum": limit.high}
    return {"anyOf": [number, {"$ref": "#/$defs/reference"}]}


def _used(schema: Any, definitions: Mapping[str, Schema]) -> dict[str, Schema]:
    """The definitions that a schema refers to, and those that these refer to."""
    found: dict[str, Schema] = {}
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting += node.values()
            name = str(node.get("$ref", "")).removeprefix("#/$defs/")
            if name and name not in found:
                found[name] = definitions[name]
                waiting.append(found[name])
    return {name: found[name] for name in sorted(found)}
