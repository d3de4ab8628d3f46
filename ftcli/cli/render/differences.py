"""How far a model as it is served is from the trained one, as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.models.export.served_difference import MEANING


def difference_rows(measured: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows that say how far a served model is from the trained one."""
    if measured["divergence"] is None:
        largest = f"{measured['largest_difference']:.2g}"
        return [("measured on", f"{measured['rows']} {measured['on']}"), ("largest difference of a score", largest)]
    tokens = f"{measured['tokens']:,} tokens of {measured['rows']} {measured['on']}"
    return [
        ("measured on", tokens),
        ("divergence", f"{measured['divergence']:.2g} nats a token"),
        ("same next token", f"{measured['same_next']:.1%}"),
        ("largest difference", f"{measured['largest_difference']:.2g} in a logit"),
        ("verdict", MEANING[measured["verdict"]]),
    ]
