"""The one table: a row for each field of every trainer config, for what of an adapter's config is taken, and for what
of our own settings has an effect only beside others.

Checks, grants, the generated pages and a test that walks the installed configs read it; there is no second. Numeric
bounds, which follow from a field's meaning in one method, stand with the methods (Method.limits) and in limits.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from ftcli.settings.fields import own_fields, trainer_fields, training_fields
from ftcli.settings.fields.field_row import FieldRow, owned, read, refused
from ftcli.settings.library_fields import Field
from ftcli.settings.ownership import REMOTE_CODE

_IMPORTS = "PEFT imports the module that it names"
ADAPTERS: Mapping[str, FieldRow] = {
    "peft.task_type": owned("method"),
    "peft.peft_type": owned("peft=NAME"),
    "peft.base_model_name_or_path": owned("model.name_or_path", "path", "network"),
    "peft.revision": owned("model.revision"),
    "peft.inference_mode": owned("ftcli train"),
    "peft.peft_version": owned("the installed PEFT"),
    "peft.auto_mapping": refused(_IMPORTS, "code"),
    "peft.megatron_config": refused("PEFT imports the module that megatron_core names", "code"),
    "peft.megatron_core": refused(_IMPORTS, "code"),
}
"""Fields of PEFT's configs that ftcli sets or refuses, whatever the adapter."""
OWN: Mapping[str, FieldRow] = {"model.trust_remote_code": read("code", grant=REMOTE_CODE), **own_fields.ROWS}
"""Settings of ours that need a flag, or that have an effect only beside others."""

FIELDS: Mapping[str, FieldRow] = {**training_fields.ROWS, **trainer_fields.ROWS, **ADAPTERS, **OWN}
"""Every row by `GROUP.FIELD`, or `GROUP.FIELD@CLASS` for the field as that class declares it."""


def row_of(name: str, field: Field | None = None) -> FieldRow | None:
    """The row of `GROUP.FIELD`, as the class that declares the field has it; None if there is none."""
    own = FIELDS.get(f"{name}@{field.owner}") if field is not None else None
    return own or FIELDS.get(name)


OWNERS = {name: row.owner for name, row in FIELDS.items() if row.owner}
"""Library field → the setting of ours, or the flag, that owns it."""
REFUSED = {name: row.refused for name, row in FIELDS.items() if row.refused}
"""Field that nothing may set → the reason."""
GRANTED_BY = {name: row.grant for name, row in FIELDS.items() if row.grant}
"""Setting that runs code, or sends or writes things elsewhere → the flag that grants it on the command line."""
LIBRARY_PATHS = frozenset(
    name for name, row in FIELDS.items() if "path" in row.reaches and row.inside in ("deepspeed", "fsdp", "accelerator")
)
"""Mappings that may also be a file: text in them is a path, to which the rules of a recipe's paths apply."""
