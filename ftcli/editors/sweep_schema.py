"""What a recipe says of a search → its JSON Schema, as `ftcli/sweeps/` reads it."""

from __future__ import annotations

from ftcli.editors.field_schema import Schema, closed
from ftcli.settings.library_fields import fields_of
from ftcli.sweeps.sweep_settings import NAMES, SPACE, SweepSettings, allowed


def sweep_schema() -> Schema:
    """The settings of a sweep, and the space that is searched."""
    fields = fields_of(f"{SweepSettings.__module__}:{SweepSettings.__name__}")
    keys: Schema = {}
    for name in NAMES:
        words, bounds, optional = allowed(name)
        kind: Schema = (
            {"enum": list(words)} if words else {"type": "integer", "minimum": bounds[0], "maximum": bounds[1]}
        )
        keys[name] = {
            "anyOf": [kind, {"type": "null"}] if optional else [kind],
            "description": " ".join(fields[name].help.split()),
        }
    return closed({**keys, SPACE: _space()})


def _space() -> Schema:
    number = {"type": "number"}
    ends = closed({"low": number, "high": number, "log": {"type": "boolean"}, "step": number}, required=["low", "high"])
    return {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": r"^[a-z]\w*(\.[A-Za-z_]\w*)*$"},
        "additionalProperties": {"anyOf": [{"type": "array", "minItems": 1, "uniqueItems": True}, ends]},
        "description": "The settings that are searched, by name: a list of values, or a range from low to high.",
    }
