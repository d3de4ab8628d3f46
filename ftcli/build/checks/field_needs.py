"""Settings without effect: a field that is written, and that the trainer reads only under settings that do not hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from ftcli.build.checks.field_checks import field_of
from ftcli.config.compose import WRITERS, Composed
from ftcli.core.errors import Problem
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.fields.field_table import row_of
from ftcli.settings.library_fields import fields_of, value_of

_CONDITION = re.compile(r"([\w.]+)([=>])(.+)")


def current(run: ResolvedRun, name: str) -> Any:
    """The value that a setting of `train`, `method` or `hardware` has in a run, with the library's own defaults."""
    group, _, key = name.partition(".")
    if group == "hardware":
        return getattr(run.spec.launch, key)
    own = run.spec.train if group == "train" else {**run.spec.method, **run.method.fixed}
    if name == "train.report_to" and own.get(key) is None:
        return "none"
    return value_of(run.method.config, own, key) if key in fields_of(run.method.config) else own.get(key)


def holds(run: ResolvedRun, condition: str) -> bool:
    """Whether a condition `SETTING=VALUE|VALUE` or `SETTING>NUMBER` holds; `=*` is any value but null and false."""
    name, sign, wanted = split(condition)
    value = current(run, name)
    if sign == ">":
        return isinstance(value, (int, float)) and value > float(wanted)
    if wanted == "*":
        return value not in (None, False, "", {}, [])
    words = [str(each).lower() for each in (value if isinstance(value, list) else [value])]
    return any(fnmatchcase(word, option) for word in words for option in wanted.split("|"))


def split(condition: str) -> tuple[str, str, str]:
    """A condition's setting, its sign and what is behind it."""
    found = _CONDITION.fullmatch(condition)
    assert found is not None, condition
    return found[1], found[2], found[3]


def _text(condition: str, *, listed: bool) -> tuple[str, str]:
    """A condition in words, and what to add so that it holds; `listed`: the setting is a list of words."""
    name, sign, wanted = split(condition)
    if sign == ">":
        return f"{name} above {wanted}", f"set {name}"
    if wanted == "*":
        return name, f"set {name}"
    options = [f"[{each}]" if listed else each for each in wanted.split("|")]
    return f"{name}={' or '.join(options)}", f"set {name}" if "*" in options[0] else f"add {name}={options[0]}"


def problems(run: ResolvedRun, composed: Composed) -> Iterator[Problem]:
    """The problem of each written field of `train` and `method` that is not read under the run's other settings.

    A recipe's setting that the command line takes the ground from is the command's doing and no mistake:
    `recipe=X train.save_strategy=no` needs no second override.
    """
    classes = {field.owner for field in fields_of(run.method.config).values()}
    for group in ("train", "method"):
        for key, value in composed.tree.get(group, {}).items():
            layer = composed.layer(group, key)
            # What a group file or a saved run holds was written for other settings than those of this command, too.
            if value is None or key not in getattr(run.spec, group) or layer < WRITERS.index("recipe"):
                continue
            name, where = f"{group}.{key}", composed.where(group, key)
            row = row_of(name, field_of(group, key, run.method))
            if row is None:
                continue
            if row.configs and not classes & set(row.configs):
                yield Problem(where, f"{name} is not read by the trainer of {run.method.name}", "remove it")
                continue
            failing = next((condition for condition in row.needs if not holds(run, condition)), None)
            if failing is not None and composed.layer(*split(failing)[0].split(".")) <= layer:
                text, add = _text(failing, listed=isinstance(current(run, split(failing)[0]), list))
                yield Problem(where, f"{name} is read only with {text}", f"{add}, or remove it")
