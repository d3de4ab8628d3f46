"""The one table: a row for each field of every config class that a spec can set, for each of our own settings, and for
what stands inside the mappings that libraries are passed.

A row says what the field reaches: what it reads, writes, sends and runs. Checks, grants, `ftcli recipe inspect`, the
generated pages and a test that walks the installed configs read it; there is no second, and a field without a row may
only be typed. Numeric
bounds, which follow from a field's meaning in one method, stand with the methods (Method.limits) and in limits.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from ftcli.settings import trackers
from ftcli.settings.fields import deepspeed_fields, own_fields, peft_fields, trainer_fields, training_fields
from ftcli.settings.fields.field_row import FieldRow
from ftcli.settings.library_fields import Field

ADAPTERS: Mapping[str, FieldRow] = peft_fields.ROWS
"""Fields of PEFT's configs, and of our own settings of adapters."""
OWN: Mapping[str, FieldRow] = own_fields.ROWS
"""Settings of our own groups."""

FIELDS: Mapping[str, FieldRow] = {**training_fields.ROWS, **trainer_fields.ROWS, **ADAPTERS, **OWN}
"""Every row by `GROUP.FIELD`, or `GROUP.FIELD@CLASS` for the field as that class declares it."""
ENTRIES: Mapping[str, FieldRow] = {
    **deepspeed_fields.ROWS,
    **own_fields.SBATCH,
    **trackers.ROWS,
    **{f"method.judge.{name}": row for name, row in own_fields.BACKEND.items()},
}
"""Every row of what stands inside a mapping, as `GROUP.FIELD.ENTRY`."""
LISTED_FIELDS = ("train.deepspeed", "hardware.sbatch", "method.judge", trackers.SETTINGS)
"""Mappings whose entries all have rows: one without is unsorted."""


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
    name
    for name, row in FIELDS.items()
    if "reads" in row.reaches and row.inside in ("deepspeed", "fsdp", "accelerator")
)
"""Mappings that may also be a file: text in them is a path, to which the rules of a recipe's paths apply."""
