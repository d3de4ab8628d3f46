"""Numbers that a row states beside its texts: margin and soft label of a pair, and what the row weighs in the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ftcli.core.errors import DataError, RowProblem
from ftcli.data.files.describe import describe_value
from ftcli.data.files.reader import Row
from ftcli.data.formats.columns import SOFT_LABEL, WEIGHTS, column, is_nothing
from ftcli.methods import all_methods
from ftcli.methods.method import Method

_NAMES = frozenset(WEIGHTS)
LARGEST = 3e38
"""What a row may state at most: training computes in float32, in which a larger number is infinite."""


def margin_of(row: Row, name: str) -> float:
    """The margin that a row states in the column of that name.

    Raises:
        DataError: it is missing or not a number.
    """
    if name not in row.value:
        what = f"has no margin column {name!r}; its columns are {', '.join(row.value)}"
        raise DataError(RowProblem(row.where, what, "name another column in data.margin_column", field=name))
    try:
        margin = float(row.value[name])
    except (TypeError, ValueError, OverflowError):
        margin = math.nan
    if not abs(margin) <= LARGEST:
        what = f"{name} is {describe_value(row.value[name])}, not a number"
        raise DataError(RowProblem(row.where, what, "give every row the margin of its pair", field=name))
    return margin


def soft_label_of(row: Row, method: Method, margin_column: str | None = None) -> float | None:
    """The probability that the chosen answer is the better one, as the row states it; None if it states none, or the
    method does not learn from it.

    Args:
        margin_column: the column with the margin of the row's pair, which a pair has instead of a soft label.

    Raises:
        DataError: it is not a number from 0 to 1, or the pair has a margin as well.
    """
    name = column(row.value, SOFT_LABEL) if method.soft_labels else None
    if name is None:
        return None
    value = row.value[name]
    try:
        label = math.nan if isinstance(value, bool) else float(value)  # of a CSV file it is text
    except (TypeError, ValueError):
        label = math.nan
    if not 0 <= label <= 1:
        what = f"{name} is {describe_value(value)}, not a probability"
        fix = "give the probability that the chosen answer is the better one, from 0 to 1, or null for certainty"
        raise DataError(RowProblem(row.where, what, fix, field=name))
    if margin_column is not None:
        what = f"the pair has a soft label, {name}, and a margin, {margin_column}: each says how much better chosen is"
        raise DataError(RowProblem(row.where, what, f"remove data.margin_column, or the column {name}", field=name))
    return label


def row_weight_of(row: Row, method: Method) -> float:
    """What a row, its columns renamed, weighs in the method's loss; 1 unless a column of WEIGHTS says so.

    Of a method that samples and hands all columns to its rewards, such a column is the rewards' own.

    Raises:
        DataError: it is not a number above 0, two columns disagree, or the method cannot weigh rows.
    """
    if _NAMES.isdisjoint(row.value):
        return 1.0
    given = {name: row.value[name] for name in WEIGHTS if not is_nothing(row.value.get(name))}
    if not given or method.rewarded:
        return 1.0
    name, weight = _weight(row.where, given)
    if weight != 1 and method.weights is None:
        what = f"{name} is {weight:g}, and {method.name} weighs all rows the same"
        able = ", ".join(name for name, other in all_methods().items() if other.weights)
        raise DataError(
            RowProblem(row.where, what, f"remove the column, or use a method that weighs rows: {able}", field=name)
        )
    return weight


def _weight(where: str, given: Mapping[str, Any]) -> tuple[str, float]:
    """The first column and its value; all are checked."""
    weights = {}
    for name, value in given.items():
        try:
            weights[name] = math.nan if isinstance(value, bool) else float(value)  # of a CSV file it is text
        except (TypeError, ValueError, OverflowError):
            weights[name] = math.nan
        if not 0 < weights[name] <= LARGEST:
            what = f"{name} is {describe_value(value)}, not a number above 0"
            fix = "give the row what its loss is multiplied by, or remove the row"
            raise DataError(RowProblem(where, what, fix, field=name))
    if len(set(weights.values())) > 1:
        what = f"the row has different weights in {' and '.join(given)}"
        raise DataError(RowProblem(where, what, "keep one of them", field=next(iter(given))))
    return next(iter(weights.items()))
