"""The documentation's tables of row formats: what each is, which columns it reads, and which method takes it."""

from __future__ import annotations

from ftcli.core.text import table
from ftcli.data.formats.columns import CONTEXT
from ftcli.data.formats.registry import FORMATS, converted_type
from ftcli.methods import Method, all_methods


def formats() -> str:
    """The recognised row formats, in the order in which they are tried."""
    rows = [(f"`{name}`", form.kind, form.doc.strip().splitlines()[0]) for name, form in FORMATS.items()]
    return table(("Format", "Dataset type", "Row"), rows)


def columns_read() -> str:
    """The columns that each format reads."""
    rows = []
    for name, form in FORMATS.items():
        needed = ", ".join(" or ".join(f"`{each}`" for each in need.shown) for need in form.needs)
        context = () if form.kind == "text" else CONTEXT
        rows.append((f"`{name}`", needed, ", ".join(f"`{each}`" for each in (*form.optional, *context))))
    return table(("Format", "Needs", "Reads as well"), rows)


def formats_by_method() -> str:
    """What each method reads of each format: the columns of the format, the margin, or all for its rewards."""
    methods = sorted(all_methods().values(), key=lambda method: method.name)
    rows = [(f"`{name}`", *(_reads_of(form.kind, method) for method in methods)) for name, form in FORMATS.items()]
    return table(("Format", *(method.name for method in methods)), rows)


def _reads_of(kind: str, method: Method) -> str:
    if converted_type(kind, method.kinds) is None:
        return ""
    if kind == "prompt" and method.rewarded:
        return "✓ r"
    return "✓ m" if method.soft_labels else "✓"
