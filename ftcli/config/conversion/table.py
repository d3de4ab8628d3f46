"""What the tables of ftcli/config/importers/ say of a key, applied to its value."""

from __future__ import annotations

from typing import Any

from ftcli.config.conversion.draft import OFF, Draft, Occurrence
from ftcli.config.conversion.known import known_defaults, known_keys
from ftcli.config.importers import Importer, Key
from ftcli.config.overrides import parse
from ftcli.settings import library_fields
from ftcli.settings.groups import GROUPS

_OF_NO_METHOD = "method={method} has no such setting"
_UNSET = "nothing is set there, and nothing here"
_IS_OFF = "off there, and off here"
_GROUP_CHOICES = ("method", "peft", "quantisation")

UNKNOWN_THERE = {
    "axolotl": "Axolotl knows no such key, and ignores it",
    "torchtune": "no part of torchtune reads such a key",
    "ms_swift": "ms-swift knows no such argument, and stops",
    "llama_factory": "LLaMA-Factory knows no such argument, and stops",
    "trl": "TRL knows no such argument, and stops",
}
"""What each tool does with a key that is none of its own."""
_SILENT = ("axolotl", "torchtune")
"""Tools that do so without a word."""


def apply(draft: Draft, key: Occurrence) -> None:
    """Decide what becomes of a key that no handler of its tool has decided."""
    row = _row(draft.importer, key.name)
    if key.value is None:
        draft.mapped(key, why=_UNSET)
    elif row is None:
        _without_row(draft, key)
    elif _value_text(key.value) in row.values:
        _choose(draft, key, row, row.values[_value_text(key.value)])
    elif row.to:
        put(draft, key, row.setting(key.name), key.value, row.note)
    elif _is_off(draft, key):
        draft.mapped(key, why=_IS_OFF)
    elif row.needless:
        draft.changed(key, "", row.note)
    elif row.values:
        draft.dropped(key, f"ftcli has {', '.join(dict.fromkeys(row.values.values()))}")
    elif _unknown_there(draft, key):
        draft.silent(key, UNKNOWN_THERE[draft.tool])
    else:
        draft.dropped(key, row.note)


def _is_off(draft: Draft, key: Occurrence) -> bool:
    """Whether a value says: not this, of a key that is not on by itself there."""
    return key.value in OFF and not known_defaults(draft.tool).get(key.name)


def _unknown_there(draft: Draft, key: Occurrence) -> bool:
    """Whether the tool's own source, where its keys are listed, has no such key: a slip, or a name of long ago."""
    known, outer = known_keys(draft.tool), key.name.partition(".")[0]
    trainer = library_fields.fields_of(library_fields.TRAINING_ARGUMENTS)
    return draft.tool in _SILENT and bool(known) and outer not in known and outer not in trainer


def apply_mapping(draft: Draft, key: Occurrence) -> None:
    """Carry a mapping over whole, where a setting of ours takes one: `lr_scheduler_kwargs`."""
    row = draft.importer.find(key.name)
    setting = row.setting(key.name) if row is not None and row.to else ""
    field = draft.field(setting) if setting else None
    if field is None or "dict" not in field.type_text or not isinstance(key.value, dict):
        return
    put(draft, key, setting, key.value)
    for each in draft.keys:
        if len(each.path) > len(key.path) and each.path[: len(key.path)] == key.path:
            inner = ".".join(each.path[len(key.path) :])
            draft.mapped(each, f"{setting}.{inner}={_value_text(each.value)}")


def _row(importer: Importer, name: str) -> Key | None:
    """The row of a key: as it is written, else as its last word; else that of the mapping it stands in."""
    outer = name.partition(".")[0]
    return (
        importer.find(name) or importer.find(name.rpartition(".")[2] if "." in name else name) or importer.find(outer)
    )


def _without_row(draft: Draft, key: Occurrence) -> None:
    name, outer = key.name.rpartition(".")[2], key.name.partition(".")[0]
    trainer = library_fields.fields_of(library_fields.TRAINING_ARGUMENTS)
    if "." not in key.name and name in trainer:
        put(draft, key, f"train.{name}", key.value)
    elif outer in known_keys(draft.tool) or outer in trainer:
        if _is_off(draft, key):
            draft.mapped(key, why=_IS_OFF)
        else:
            draft.dropped(key, "ftcli has no such setting")
    elif draft.tool in _SILENT:
        draft.silent(key, UNKNOWN_THERE[draft.tool])
    else:
        draft.dropped(key, UNKNOWN_THERE[draft.tool])


def put(draft: Draft, key: Occurrence, setting: str, value: Any, note: str = "") -> None:
    """Carry a value over to a setting, if the chosen method and adapter have it and it may hold the value."""
    group = setting.partition(".")[0]
    if not draft.has(setting):
        if value in OFF:
            draft.mapped(key, why=_IS_OFF)
        elif group == "peft" and draft.choices["peft"] == "none":
            draft.silent(key, "all weights are trained, so a setting of an adapter does nothing")
        else:
            chosen = draft.choices.get(group, "")
            draft.dropped(key, f"{group}={chosen} has no setting {setting}" if chosen else f"there is no {setting}")
        return
    field = draft.field(setting)
    if field is not None and field.choices and isinstance(value, str) and value not in field.choices:
        draft.dropped(key, f"{setting} has no value {value}")
        return
    if setting in draft.settings and draft.settings[setting] != value:
        before = _value_text(draft.settings[setting])
        draft.changed(key, f"{setting}={before}", f"{setting}={before} comes from another key, which goes first")
        return
    draft.put(setting, value)
    draft.mapped(key, f"{setting}={_value_text(value)}", note)


def _choose(draft: Draft, key: Occurrence, row: Key, overrides: str) -> None:
    """A value that is a choice of ours, or several overrides."""
    differs = []
    for override in map(parse, overrides.split()):
        if override.name in GROUPS:
            chosen = draft.choices.get(override.name)
            if override.name in _GROUP_CHOICES and chosen != override.value:
                if key.value in OFF or chosen is not None:
                    differs.append(f"{override.name}={chosen or 'none'}")
            else:
                draft.choose(override.name, str(override.value))
        elif draft.has(override.name):
            draft.put(override.name, override.value)
        else:
            differs.append(f"without {override.name}")
    if key.value in OFF:
        draft.mapped(key, "" if differs else overrides, _IS_OFF if differs else row.note)
    elif differs:
        draft.changed(key, " ".join(differs), f"alone it would be {overrides}; other keys decide")
    else:
        draft.mapped(key, overrides, row.note)


def _value_text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
