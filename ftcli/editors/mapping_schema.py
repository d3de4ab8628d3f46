"""Mappings whose entries are settings of their own: the sets of a mix, rewards by name, and a judge or generator."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from ftcli.editors.field_schema import REFERENCE, Schema, annotation_schema, closed, field_schema, one_of
from ftcli.rewards.rules import REWARDS, annotation_of
from ftcli.settings.library_fields import fields_of
from ftcli.settings.limits import OF_BACKEND

_SET = "ftcli.settings.groups:SetSettings"
_BACKEND = "ftcli.settings.backends:BackendSettings"


def of_mapping(kind: str) -> Schema:
    """One of them, as the value of a setting: "mix", "rewards" or "backend"; null leaves it out."""
    backend = {"$ref": "#/$defs/backend"}
    inside = _mix() if kind == "mix" else _rewards() if kind == "rewards" else backend
    return {"anyOf": [inside, {"type": "null"}, REFERENCE]}


def mix_schema() -> Schema:
    """One set of `data.mix`."""
    fields = fields_of(_SET)
    keys = {name: field_schema(f"data.{name}", field) for name, field in fields.items()}
    return closed(keys)


def _mix() -> Schema:
    return {"type": "object", "additionalProperties": {"$ref": "#/$defs/set"}}


def backend_schema() -> Schema:
    """A judge or generator."""
    fields = fields_of(_BACKEND)
    return closed({name: field_schema(f"judge.{name}", each, OF_BACKEND.get(name)) for name, each in fields.items()})


def _rewards() -> Schema:
    """Every named reward: its weight, or its settings with a weight among them."""
    number: Schema = {"anyOf": [{"type": "number"}, REFERENCE]}
    found: dict[str, Any] = {}
    for name, function in REWARDS.items():
        parameters = inspect.signature(function).parameters.values()
        own = {each.name: _parameter(annotation_of(each)) for each in parameters if each.kind is each.KEYWORD_ONLY}
        text = " ".join(str(function.__doc__).split())
        found[name] = {"anyOf": [number, closed({**own, "weight": number})], "description": text}
    return closed(found)


def _parameter(annotation: str) -> Schema:
    return one_of([*annotation_schema(ast.parse(annotation, mode="eval").body), REFERENCE])
