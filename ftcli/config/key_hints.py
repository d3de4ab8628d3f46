"""The right name of a key that is none of ours: of another tool, of a library, or mistyped.

The tables of other tools (ftcli/config/importers/) and the libraries' fields answer; both are imported only here, so
that a command without a mistake pays nothing for them. No hint names a key that would be refused itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftcli.config.group_fields import group_fields, method_fields, settable
from ftcli.methods import all_methods
from ftcli.peft_methods import PEFT_METHODS
from ftcli.settings.fields import field_table
from ftcli.settings.groups import GROUPS, OWN_GROUPS

if TYPE_CHECKING:
    from ftcli.config.importers import Key

UNKNOWN = object()
"""The value of a key that was named without one."""


def remedy(
    key: str, value: Any = UNKNOWN, *, recipe: bool = False, chosen: Collection[str] = frozenset()
) -> str | None:
    """What to write in place of a key that is not a setting; None if nothing like it is known.

    Args:
        key: as it was written, without our group; `outer.inner` for one below a mapping.
        value: its value, to be repeated in the remedy.
        recipe: whether it stands in a recipe, where settings are lines below their group.
        chosen: the settings, as `group.key`, that the chosen method and adapter have: they need no further choice.
    """
    return exact_remedy(key, value, recipe=recipe, chosen=chosen) or _mistyped(key.replace("-", "_"), value, recipe)


def exact_remedy(
    key: str,
    value: Any = UNKNOWN,
    *,
    recipe: bool = False,
    chosen: Collection[str] = frozenset(),
    group: str = "",
) -> str | None:
    """`remedy` of a key that is known as it is written; None for one that may only be mistyped.

    Args:
        group: the group of ours in which it was written and is not known, so that no hint leads back there.
    """
    name = key.replace("-", "_")
    found = _foreign(name, value, recipe, chosen, f"{group}.{name}")
    return found or (None if group in ("method", "peft") else _own(name, value, recipe))


def setting_for(name: str, value: str | None) -> str | None:
    """How to write what was meant by a flag or a word that is the name of a setting: `train.learning_rate=1e-5`.

    Returns:
        None where nothing like it is known.
    """
    shown = "VALUE" if value is None else value
    group, _, key = name.partition(".")
    if name in (*GROUPS, "recipe", "seed"):
        return f"{name}={shown}"
    if group in (*GROUPS, *OWN_GROUPS) and key:
        if key in _fields(group):
            return f"{name}={shown}"
        return remedy(key, UNKNOWN if value is None else value) or f"ftcli show {group} lists its settings"
    return remedy(name, UNKNOWN if value is None else value)


def foreign_tool(keys: Mapping[str, Any]) -> str | None:
    """The tool whose configuration a mapping looks like: most of its keys, and at least two, are that tool's."""
    from ftcli.config.importers import all_importers

    counts = {each.title: sum(each.find(key) is not None for key in keys) for each in all_importers().values()}
    title = max(counts, key=lambda each: counts[each])
    return title if counts[title] >= max(2, len(keys) / 2) else None


def nested(key: str, value: Any) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """The known keys inside a foreign key's value, each with its path in the file, its dotted name and its value."""
    from ftcli.config.importers import all_importers

    known = {name for tool in all_importers().values() for row in tool.keys for name in row.names if "." in name}
    yield from _below((key,), key, value, known)


def _below(path: tuple[str, ...], name: str, value: Any, known: set[str]) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield from _below((*path, str(index)), name, item, known)
    elif isinstance(value, dict):
        for inner, own in value.items():
            if f"{name}.{inner}" in known:
                yield (*path, str(inner)), f"{name}.{inner}", own
            yield from _below((*path, str(inner)), f"{name}.{inner}", own, known)


def translated(row: Key, name: str, value: Any = UNKNOWN, *, recipe: bool = False) -> str:
    """What a row of a table says of one of its keys with this value."""
    text = _plain(value)
    if text in row.values:
        return _with_note(_written(row.values[text].split(), recipe), row)
    if row.to:
        setting = row.setting(name)
        parts = [setting if value is UNKNOWN or isinstance(value, (dict, list)) else f"{setting}={text}"]
        return _with_note(_written([*parts, *row.under.split()], recipe), row)
    if row.values:
        every = dict.fromkeys(row.values.values())
        return _with_note(" or ".join(_written(each.split(), recipe=False) for each in every), row)
    return row.note


def _with_note(text: str, row: Key) -> str:
    return f"{text}; {row.note}" if row.note else text


def _plain(value: Any) -> str:
    """A value as it is typed behind `=`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _written(overrides: list[str], recipe: bool) -> str:
    """Overrides as they are typed, or as the lines of a recipe that say the same."""
    if not recipe:
        first, *more = overrides
        return f"{first}{' with ' if more else ''}{' '.join(more)}"
    lines = []
    for override in overrides:
        key, equals, value = override.partition("=")
        group, dot, setting = key.partition(".")
        if not dot and group in GROUPS:
            lines.append(f"{override}, as `- {group}: {value}` below `defaults:`")
        elif dot:
            shown = f"{setting}: {value}" if equals else f"{setting}: …"
            lines.append(f"{key}, as `{shown}` below `{group}:`")
        else:
            lines.append(f"{key}, as `{key}: {value}`" if equals else key)
    return "; ".join(lines)


def _foreign(
    name: str, value: Any, recipe: bool, chosen: Collection[str] = frozenset(), written: str = ""
) -> str | None:
    """The remedy of the tools' tables, unless it is the setting that was `written`; several if they disagree."""
    from ftcli.config.importers import all_importers

    rows = [row for tool in all_importers().values() if (row := tool.find(name)) is not None]
    rows = [row for row in rows if row.setting(name) != written]
    rows = [replace(row, under="") if row.setting(name) in chosen else row for row in rows]
    answered = [row for row in rows if row.to or row.values] or rows
    found = dict.fromkeys(translated(row, name, value, recipe=recipe) for row in answered)
    texts = [text for text in found if not any(text != other and other.startswith(text) for other in found)]
    return "; or ".join(texts) or None


def _own(name: str, value: Any, recipe: bool) -> str | None:
    """The remedy for a field of ours or of a library that was written without its group, or under another one."""
    found = [f"{group}.{name}" for group in ("train", *OWN_GROUPS) if name in _fields(group)]
    methods = [m.name for m in all_methods().values() if name in settable("method", method_fields(m))]
    tuners = [p.name for p in PEFT_METHODS.values() if name in settable("peft", p.fields(), p)]
    if found:
        return " or ".join(_written([_valued(each, value)], recipe) for each in found)
    for group, choices in (("method", methods), ("peft", tuners)):
        if choices:
            several = f", an option of {', '.join(choices[:6])}" if len(choices) > 1 else f" with {group}={choices[0]}"
            return _written([_valued(f"{group}.{name}", value)], recipe) + several
    for group in ("train", "method", "peft"):
        if owner := field_table.OWNERS.get(f"{group}.{name}"):
            return f"use {owner}"
        if reason := field_table.REFUSED.get(f"{group}.{name}"):
            return f"remove it: {reason}"
    return None


def _valued(setting: str, value: Any) -> str:
    return setting if value is UNKNOWN or isinstance(value, (dict, list)) else f"{setting}={_plain(value)}"


def _fields(group: str) -> set[str]:
    """The settings of a group under any method or adapter."""
    if group == "method":
        return {name for method in all_methods().values() for name in settable(group, method_fields(method))}
    if group == "peft":
        return {name for peft in PEFT_METHODS.values() for name in settable(group, peft.fields(), peft)}
    return set(settable(group, group_fields(group, all_methods()["sft"], None)))


def _mistyped(name: str, value: Any, recipe: bool) -> str | None:
    """The remedy of the nearest known key."""
    from difflib import get_close_matches

    from ftcli.config.importers import all_importers

    names = {each for tool in all_importers().values() for row in tool.keys for each in row.names}
    names = names.union(*map(_fields, ("train", *OWN_GROUPS)))
    near = get_close_matches(name, sorted(names), n=1, cutoff=0.84)
    if not near:
        return None
    found = _foreign(near[0], value, recipe) or _own(near[0], value, recipe)
    return f"did you mean {near[0]}? It is {found}"
