"""The short recipe of a run: its choices, and only those settings that differ from what the choices set anyway.

Paths are written as seen from the recipe's folder. What lies elsewhere is written by its name alone: where it lies is
the author's business, and whoever gets the recipe puts it beside the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftcli.config import recipe_yaml
from ftcli.config.compose import Request, compose
from ftcli.config.group_fields import group_fields
from ftcli.config.recipe_file import SCHEMA_VERSION
from ftcli.core import assets
from ftcli.core.strict_yaml import KeyPath
from ftcli.core.text import shell_word
from ftcli.methods import get_method
from ftcli.peft_methods import peft_method
from ftcli.settings.groups import CARD, GROUPS, is_path_key
from ftcli.settings.run_spec import RunSpec

_GONE: Any = object()
_REMARK_LETTERS = 72


def recipe(spec: RunSpec, folder: Path, name: str, provenance: list[str]) -> tuple[str, list[str]]:
    """The text of a run's recipe, and the names of what must be put beside it.

    Args:
        folder: where the recipe will lie.
        name: of its file, for the line that runs it.
        provenance: lines on where it comes from and what was measured.
    """
    elsewhere: list[str] = []
    choices = _shipped(spec.choices)
    settings = _relative(differing(spec), folder, elsewhere, ())
    default = _default(choices)
    run_it = f"ftcli train {shell_word(f'recipe={name}')}"
    purpose = f"{spec.choices['method']} of {os.path.basename(spec.model.name_or_path)}, peft={spec.choices['peft']}"
    head = [f"{recipe_yaml.comment(purpose)}.   {run_it}", *map(recipe_yaml.comment, provenance)]
    head += [recipe_yaml.comment(f"put beside this file: {each}") for each in elsewhere]
    root = _default({})
    chosen = [f"  - {group}: {choice}" for group, choice in choices.items() if root["choices"].get(group) != choice]
    defaults = ["defaults:", *chosen] if chosen else []
    body = recipe_yaml.lines(settings, _remarks(spec, default["tree"]))
    return "\n".join([*head, f"ftcli: {SCHEMA_VERSION}", *defaults, *body]) + "\n", elsewhere


def differing(spec: RunSpec) -> dict[str, Any]:
    """The settings of a run that its choices do not set, by group."""
    default = _default(_shipped(spec.choices))["tree"]
    tree = spec.tree
    found: dict[str, Any] = {}
    for group in (*GROUPS, "run"):
        named = {key: each for key, each in tree.get(group, {}).items() if key != "name" or group == "run"}
        own = {key: each for key, each in named.items() if default[group].get(key, _GONE) != each}
        if group == "run":
            own.pop("dir", None)
        if group == "model" and "name_or_path" in own:
            own = {**{key: each for key, each in own.items() if key not in CARD}, **_own_card(spec)}
        if group == "data" and own.get("path", _GONE) is None and own.get("mix"):
            del own["path"]  # a mix does not read the group's own set
        if group == "data" and own.get("template") == "auto" and "template" not in default["data"]:
            del own["template"]
        if own:
            found[group] = own
    if tree["seed"] != default["seed"]:
        found["seed"] = tree["seed"]
    return found


def _own_card(spec: RunSpec) -> dict[str, Any]:
    """What is said of a model that no choice names; what a choice says of another one does not hold for it."""
    resolved = asdict(spec.model)
    return {key: resolved[key] for key in CARD if resolved[key] is not None}


def _shipped(choices: Mapping[str, str]) -> dict[str, str]:
    """The choices, those of a user's own group files replaced by the default: nobody else has them."""
    root = _default({})["choices"]
    return {group: choice if choice in assets.choices(group) else root[group] for group, choice in choices.items()}


def _default(choices: Mapping[str, str]) -> dict[str, Any]:
    composed = compose(Request(overrides=tuple(f"{group}={choice}" for group, choice in choices.items())))
    return {"tree": composed.tree, "choices": composed.choices}


def _relative(value: Any, folder: Path, elsewhere: list[str], path: KeyPath) -> Any:
    """The settings with every absolute path as seen from a folder."""
    if isinstance(value, Mapping):
        return {key: _relative(each, folder, elsewhere, (*path, str(key))) for key, each in value.items()}
    if isinstance(value, list):
        return [_relative(each, folder, elsewhere, path) for each in value]
    if not isinstance(value, str) or not os.path.isabs(value):
        return value
    if not (is_path_key(".".join(path)) or os.path.lexists(value)):
        return value
    real, home = os.path.realpath(value), os.path.realpath(folder)
    if real.startswith(os.path.join(home, "")):
        return f"./{os.path.relpath(real, home)}" if path[0] == "model" else os.path.relpath(real, home)
    name = os.path.basename(value.rstrip("/"))
    elsewhere.append(name)
    return f"./{name}" if path[0] == "model" else name


def _remarks(spec: RunSpec, default: Mapping[str, Any]) -> Callable[[KeyPath], str]:
    """What is said behind each setting: what it is, and what it would be otherwise."""
    method = get_method(spec.choices["method"])
    peft = peft_method({**spec.peft, "name": spec.choices["peft"]})

    def remark(path: KeyPath) -> str:
        if len(path) != 2 or path[0] not in GROUPS:
            return ""
        group, key = path
        field = group_fields(group, method, peft).get(key)
        otherwise = default[group].get(key, field.default if field is not None else None)
        said = list(_first_sentence(field.help if field is not None else ""))
        if otherwise not in (None, "", "None") and not isinstance(otherwise, (dict, list)):
            said.append(f"default {otherwise}")
        return "; ".join(said)

    return remark


def _first_sentence(text: str) -> Iterator[str]:
    words = " ".join(text.split())
    first = words.partition(". ")[0].rstrip(".")
    if first and len(first) <= _REMARK_LETTERS:
        yield first[0].lower() + first[1:] if not first[:2].isupper() else first
