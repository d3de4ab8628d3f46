"""One field of a config class → the JSON Schema of its values, as `build/checks/field_checks.py` accepts them.

A type stays the syntax tree of its annotation until here (settings/library_fields.py); what is accepted there is
accepted by the schema, and what an annotation does not say, the table of fields and the limits do.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ftcli.build.checks.field_checks import DERIVED_FIELDS, choices_of
from ftcli.core.hub_cache import REVISION
from ftcli.settings import library_fields, trackers
from ftcli.settings.batch_plan import AUTO, SIZE
from ftcli.settings.fields import field_table
from ftcli.settings.fields.field_row import LISTED
from ftcli.settings.library_fields import Field
from ftcli.settings.limits import Limit

Schema = dict[str, Any]

REFERENCE: Schema = {"$ref": "#/$defs/reference"}
"""`${group.key}` in place of a value: any setting may be one."""
NOTHING: Schema = {"not": {}}
"""Accepts no value."""

_PLAIN = {"int": "integer", "float": "number", "bool": "boolean", "str": "string", "dict": "object"}
_LISTS = ("list", "tuple")


def field_schema(name: str, field: Field, limit: Limit | None = None, preset: Any = None) -> Schema:
    """The values of a setting, with its documentation and its default.

    Args:
        name: `group.key`, as the table of fields has it.
        limit: its bounds and choices under the method or adapter that it belongs to.
        preset: the value that the chosen group's file sets, which goes before the class's own default.
    """
    kinds = [*_words(name, field, limit), *_typed(field, limit, words=_listed(name, field, limit))]
    if name in DERIVED_FIELDS:
        kinds.append({"type": "null"})
    if name == f"train.{SIZE}":
        kinds.append({"const": AUTO})
    if name.endswith(".revision"):
        kinds = [{"type": "string", "pattern": f"^{REVISION}$"}, {"type": "null"}]
    if name in field_table.LISTED_FIELDS:
        kinds = [{**kind, **_entries(name)} if kind.get("type") == "object" else kind for kind in kinds]
    found: Schema = {"anyOf": _distinct([*kinds, REFERENCE])}
    if text := " ".join(field.help.split()):
        found["description"] = text
    default = preset if preset is not None else _default(field)
    if default is not None:
        found["default"] = default
    return found


def annotation_schema(annotation: ast.expr) -> list[Schema]:
    """The types of an annotation, each as a schema of its own; the counterpart of `library_fields.accepts`."""
    if isinstance(annotation, ast.BinOp):  # X | Y
        return [*annotation_schema(annotation.left), *annotation_schema(annotation.right)]
    if isinstance(annotation, ast.Constant):
        if annotation.value is None:
            return [{"type": "null"}]
        text = annotation.value  # a quoted annotation is source text of its own
        return annotation_schema(ast.parse(text, mode="eval").body) if isinstance(text, str) else []
    if isinstance(annotation, ast.Subscript):
        return _generic(getattr(annotation.value, "id", ""), annotation.slice)
    name = getattr(annotation, "id", "")
    if name in library_fields.ENUMS:
        return [{"enum": [*library_fields.enum_values(name)]}]
    if name == "Any":
        return [{}]
    return [{"type": "array"}] if name in _LISTS else [{"type": _PLAIN[name]}] if name in _PLAIN else []


def _generic(name: str, inner: ast.expr) -> list[Schema]:
    """The types of `name[inner]`; none for a generic type that no value is accepted for."""
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name in ("Optional", "Union"):
        found = [kind for part in parts for kind in annotation_schema(part)]
        return [*found, *([{"type": "null"}] if name == "Optional" else [])]
    if name == "Literal":
        return [{"enum": [part.value for part in parts if isinstance(part, ast.Constant)]}]
    if name == "dict":
        return [{"type": "object", "additionalProperties": one_of(annotation_schema(parts[1]))}]
    if name not in _LISTS:
        return []
    types = [part for part in parts if not (isinstance(part, ast.Constant) and part.value is ...)]
    if name == "tuple" and len(types) == len(parts):  # tuple[X, Y]: as many items as types
        items = [one_of(annotation_schema(part)) for part in types]
        return [{"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}]
    return [{"type": "array", "items": one_of(annotation_schema(types[0]))}]


def one_of(kinds: list[Schema]) -> Schema:
    """Any of several schemas, as one."""
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else NOTHING


def _listed(name: str, field: Field, limit: Limit | None) -> tuple[str, ...]:
    return choices_of(field, limit, field_table.row_of(name, field))


def _words(name: str, field: Field, limit: Limit | None) -> list[Schema]:
    """The words of a choice, alone and, where the field takes several, in a list; nothing where it is free."""
    listed, row = _listed(name, field, limit), field_table.row_of(name, field)
    if not listed:
        return []
    families = [word for word in listed if "[" in word]  # `pissa_niter_[number of iters]` stands for many
    words: list[Schema] = [{"enum": [word for word in listed if word not in families]}]
    words += [{"type": "string", "pattern": _family(word)} for word in families]
    if row is not None and row.spaced:
        words.append({"type": "string", "pattern": rf"^\s*(({'|'.join(map(re.escape, listed))})(\s+|$))*$"})
    several = library_fields.accepts(field.annotation, [listed[0]])
    return [*words, *([{"type": "array", "items": one_of(words)}] if several else [])]


def _entries(name: str) -> Schema:
    """A mapping whose entries have rows of their own in the table of fields; any other may only be switched off."""
    rows = {entry.rpartition("."): row for entry, row in field_table.ENTRIES.items()}
    keys: Schema = {}
    for (above, _, key), row in rows.items():
        if above == name and not row.refused:
            keys[key] = _entries(f"{name}.{key}") if row.inside == LISTED else _entry(name, key)
    return {"properties": keys, "additionalProperties": _OFF}


def _entry(name: str, key: str) -> Schema:
    """The values of an entry: those of a tracker's setting, which says them; else any."""
    above, _, tracker = name.rpartition(".")
    if above != trackers.SETTINGS:
        return {}
    setting = trackers.TRACKERS[tracker].settings[key]
    values: Schema = {"enum": [*setting.choices]} if setting.choices else {"type": _PLAIN[setting.type.__name__]}
    found: Schema = {"anyOf": [values, {"type": "null"}, REFERENCE], "description": setting.text}
    return found if setting.default is None else {**found, "default": setting.default}


_OFF: Schema = {"enum": [None, False]}


def _family(option: str) -> str:
    return "^" + re.sub(r"\\\[.*?\\\]", "[0-9]+", re.escape(option)) + "$"


def _typed(field: Field, limit: Limit | None, *, words: tuple[str, ...]) -> list[Schema]:
    """The types of the annotation within the limits; of one that lists words, those that are no text."""
    kinds = annotation_schema(field.annotation)
    if limit is not None and limit.mapping:
        kinds.append({"type": "object"})
    if words:
        kinds = [kind for kind in map(_without_text, kinds) if kind is not None]
    return [_within(kind, limit) for kind in kinds]


def _without_text(kind: Schema) -> Schema | None:
    """A schema without text, alone or in a list; None where nothing is left."""
    if "enum" in kind:
        left = [value for value in kind["enum"] if not isinstance(value, str)]
        return {"enum": left} if left else None
    if kind.get("type") == "string" or kind.get("items") == {"type": "string"}:
        return None
    return kind


def _within(kind: Schema, limit: Limit | None) -> Schema:
    if limit is None:
        return kind
    if "items" in kind:
        return {**kind, "items": _within(kind["items"], limit)}
    if kind.get("type") not in ("integer", "number"):
        return kind
    bounds = {
        "exclusiveMinimum" if limit.open_low else "minimum": limit.low,
        "exclusiveMaximum" if limit.open_high else "maximum": limit.high,
    }
    return {**kind, **{key: value for key, value in bounds.items() if value is not None}}


def _default(field: Field) -> Any:
    """The class's own default, where it is a literal that YAML can hold."""
    if field.value is None:
        return None
    try:
        value = ast.literal_eval(field.value)
    except ValueError:
        return None
    return [*value] if isinstance(value, tuple) else value


def _distinct(kinds: Iterable[Schema]) -> list[Schema]:
    found: list[Schema] = []
    for kind in kinds:
        if kind not in found:
            found.append(kind)
    return found


def closed(properties: Mapping[str, Any], **more: Any) -> Schema:
    """A mapping with these keys and no others."""
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **more}
