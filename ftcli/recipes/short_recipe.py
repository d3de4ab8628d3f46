"""The short recipe of a run: its choices, and only those settings that differ from what the choices set anyway.

Paths are written as seen from the recipe's folder. What lies elsewhere is written by its name alone: where it lies is
the author's business, and whoever gets the recipe puts it beside the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from ftcli.methods import Method, get_method
from ftcli.peft_methods import PeftMethod, peft_method
from ftcli.settings.groups import CARD, GROUPS, is_path_key
from ftcli.settings.run_spec import RunSpec

_GONE: Any = object()
_REMARK_LETTERS = 72
_OF_WHO_RAN_IT = ("dir", "trackers", "tracking", "profile", "profile_steps")


def recipe(spec: RunSpec, folder: Path, name: str, provenance: list[str]) -> tuple[str, list[str]]:
    """The text of a run's recipe, and the names of what must be put beside it.

    Args:
        folder: where the recipe will lie.
        name: of its file, for the line that runs it.
        provenance: lines on where it comes from and what was measured.
    """
    elsewhere: list[str] = []
    choices = shipped(spec.choices)
    settings = relative(differing(spec), folder, elsewhere, ())
    default = _default(choices)
    purpose = f"{spec.choices['method']} of {os.path.basename(spec.model.name_or_path)}, peft={spec.choices['peft']}"
    method, peft = get_method(spec.choices["method"]), peft_method({**spec.peft, "name": spec.choices["peft"]})
    body = recipe_yaml.lines(settings, remarks(method, peft, default["tree"]))
    return assembled(name, purpose, provenance, elsewhere, chosen_lines(choices), body), elsewhere


def assembled(
    name: str,
    purpose: str,
    provenance: Iterable[str],
    elsewhere: Iterable[str],
    chosen: Sequence[str],
    body: Iterable[str],
) -> str:
    """The text of a recipe: what it is for and how it is run, where it comes from, its choices and its settings."""
    run_it = f"ftcli train {shell_word(f'recipe={name}')}"
    head = [f"{recipe_yaml.comment(purpose)}.   {run_it}", *map(recipe_yaml.comment, provenance)]
    head += [recipe_yaml.comment(f"put beside this file: {each}") for each in dict.fromkeys(elsewhere)]
    defaults = ["defaults:", *chosen] if chosen else []
    return "\n".join([*head, f"ftcli: {SCHEMA_VERSION}", *defaults, *body]) + "\n"


def chosen_lines(choices: Mapping[str, str], known: Mapping[str, str] | None = None) -> list[str]:
    """The lines below `defaults:`: each choice that is not the one of what it stands on.

    Args:
        known: the choices that it stands on; None for those of a run that names nothing.
    """
    below = _default({})["choices"] if known is None else known
    return [f"  - {group}: {choice}" for group, choice in choices.items() if below.get(group) != choice]


def differing(spec: RunSpec) -> dict[str, Any]:
    """The settings of a run that its choices do not set, by group."""
    default = _default(shipped(spec.choices))["tree"]
    tree = spec.tree
    found: dict[str, Any] = {}
    for group in (*GROUPS, "run"):
        named = {key: each for key, each in tree.get(group, {}).items() if key != "name" or group == "run"}
        own = {key: each for key, each in named.items() if default[group].get(key, _GONE) != each}
        if group == "run":  # where it lies, who draws its curve and what times it are of who ran it
            own = {key: each for key, each in own.items() if key not in _OF_WHO_RAN_IT}
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


def differing_values(spec: RunSpec) -> list[tuple[str, Any, Any]]:
    """The choices of a run that are not the usual ones, then the settings of `differing`, each with its default."""
    root, default = _default({})["choices"], _default(shipped(spec.choices))["tree"]
    chosen = [(group, name, root.get(group)) for group, name in spec.choices.items() if root.get(group) != name]
    own = differing(spec)
    found = [
        (f"{group}.{key}", value, default[group].get(key))
        for group, values in own.items()
        if isinstance(values, Mapping)
        for key, value in values.items()
    ]
    return [*chosen, *found, *([("seed", own["seed"], default["seed"])] if "seed" in own else [])]


def _own_card(spec: RunSpec) -> dict[str, Any]:
    """What is said of a model that no choice names; what a choice says of another one does not hold for it."""
    resolved = asdict(spec.model)
    return {key: resolved[key] for key in CARD if resolved[key] is not None}


def shipped(choices: Mapping[str, str]) -> dict[str, str]:
    """The choices, those of a user's own group files replaced by the default: nobody else has them."""
    root = _default({})["choices"]
    return {group: choice if choice in assets.choices(group) else root[group] for group, choice in choices.items()}


def _default(choices: Mapping[str, str]) -> dict[str, Any]:
    composed = compose(Request(overrides=tuple(f"{group}={choice}" for group, choice in choices.items())))
    return {"tree": composed.tree, "choices": composed.choices}


def relative(value: Any, folder: Path, elsewhere: list[str], path: KeyPath) -> Any:
    """The settings with every absolute path as seen from a folder."""
    if isinstance(value, Mapping):
        return {key: relative(each, folder, elsewhere, (*path, str(key))) for key, each in value.items()}
    if isinstance(value, list):
        return [relative(each, folder, elsewhere, path) for each in value]
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


def remarks(method: Method, peft: PeftMethod | None, default: Mapping[str, Any]) -> Callable[[KeyPath], str]:
    """What is said behind each setting: what it is, and what it would be otherwise."""

    def remark(path: KeyPath) -> str:
        if len(path) != 2 or path[0] not in GROUPS:
            return ""
        group, key = path
        field = group_fields(group, method, peft).get(key)
        otherwise = default[group].get(key, field.default if field is not None else None)
        said = list(first_sentence(field.help if field is not None else ""))
        a_place = isinstance(otherwise, str) and os.path.isabs(otherwise)
        if otherwise not in (None, "", "None") and not isinstance(otherwise, (dict, list)) and not a_place:
            said.append(f"default {otherwise}")
        return "; ".join(said)

    return remark


def first_sentence(text: str) -> Iterator[str]:
    """The first sentence of a help text, where it is short enough to stand behind a setting."""
    words = " ".join(text.split())
    first = words.partition(". ")[0].rstrip(".")
    if first and len(first) <= _REMARK_LETTERS:
        yield first[0].lower() + first[1:] if not first[:2].isupper() else first
