"""The fields that a method's variant stands for, written into a run's settings, each with a note."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.methods import Method
from ftcli.settings.library_fields import value_of
from ftcli.settings.run_spec import Notes


def with_variant(settings: Mapping[str, Any], method: Method, notes: Notes) -> dict[str, Any]:
    """The settings with the fields of the chosen variant; where none is chosen, with the library's defaults of what a
    variant would define, so that a run keeps them when the library changes its mind.

    A value that was set is kept; one that is not the paper's is noted.
    """
    result = dict(settings)
    name = result.get("variant")
    variant = method.variants.get(name) if isinstance(name, str) else None
    if variant is None:
        for field, why in method.without_variant.items():
            if result.get(field) is None:
                result[field] = notes.add(f"method.{field}", value_of(method.config, result, field), why)
        return result
    for field, value in variant.fields.items():
        if result.get(field) is None:
            result[field] = notes.add(f"method.{field}", value, f"method.variant={name}: {variant.paper}")
        elif result[field] != value and field not in variant.defines:
            notes.add(f"method.{field}", result[field], f"set; method.variant={name} has {value} ({variant.paper})")
    return result
