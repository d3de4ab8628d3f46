"""Which fields each group has under a method and an adapter, and which of them a user may set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ftcli.methods import Method
from ftcli.peft_methods import PeftMethod
from ftcli.settings import library_fields
from ftcli.settings.fields import field_table
from ftcli.settings.groups import OWN_GROUPS
from ftcli.settings.library_fields import Field


def method_fields(method: Method) -> Mapping[str, Field]:
    """The fields of the method's trainer config beyond TrainingArguments."""
    hidden = {*library_fields.fields_of(library_fields.TRAINING_ARGUMENTS), *method.fixed, *method.without}
    return {name: field for name, field in library_fields.fields_of(method.config).items() if name not in hidden}


def group_fields(group: str, method: Method, peft: PeftMethod | None) -> Mapping[str, Field]:
    """The fields that a group has for this method and adapter."""
    if group == "train":
        return library_fields.fields_of(library_fields.TRAINING_ARGUMENTS)
    if group == "method":
        return method_fields(method)
    if group == "peft":
        return peft.fields() if peft else {}
    return library_fields.fields_of(f"ftcli.settings.groups:{OWN_GROUPS[group].__name__}")


def settable(group: str, fields: Iterable[str], peft: PeftMethod | None = None) -> list[str]:
    """The names among `fields` that a user may set in `group`."""
    taken = {f"peft.{name}" for name in (*peft.owned, *peft.fixed)} if peft else set()
    taken |= field_table.OWNERS.keys() | field_table.REFUSED.keys()
    return [name for name in fields if f"{group}.{name}" not in taken]
