"""Settings without effect: a field that is written, and that the trainer reads only under settings that do not hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from ftcli.build.checks.field_checks import field_of
from ftcli.build.derive import has_validation
from ftcli.config.compose import WRITERS, Composed
from ftcli.core.errors import Problem
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.fields.field_row import HELD_OUT
from ftcli.settings.fields.field_table import row_of
from ftcli.settings.library_fields import fields_of, value_of

_CONDITION = re.compile(r"(not )?([\w.]+)([=>])(.+)")
_OWN = ("data", "quantisation")
"""Groups of our own settings that the table has rows for."""


def current(run: ResolvedRun, name: str) -> Any:
    """The value that a setting has in a run, with the library's own defaults where it is one of a library."""
    group, _, key = name.partition(".")
    if name == HELD_OUT:
        return has_validation(run.spec.data, run.method)
    if group in _OWN:
        return getattr(getattr(run.spec, group), key)
    if group == "hardware":
        return getattr(run.spec.launch, key)
    own = run.spec.train if group == "train" else {**run.spec.method, **run.method.fixed}
    if name == "train.report_to" and own.get(key) is None:
        return "none"
    return value_of(run.method.config, own, key) if key in fields_of(run.method.config) else own.get(key)


def holds(run: ResolvedRun, condition: str) -> bool:
    """Whether a condition `SETTING=VALUE|VALUE` or `SETTING>NUMBER` holds; `=*` is any value but null and false.

    `not CONDITION` holds where the condition does not.
    """
    if condition.startswith("not "):
        return not holds(run, condition.removeprefix("not "))
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
    return found[2], found[3], found[4]


def _text(condition: str, value: Any) -> tuple[str, str]:
    """What a setting without effect says of the condition, and what to do; `value` is what the other setting has."""
    name, sign, wanted = split(condition)
    if condition.startswith("not "):
        return f"has no effect beside {name}={value}", f"remove one of them (~{name} drops what a file sets)"
    if name == HELD_OUT:
        return "is read only with held-out rows", "add data.eval_path=FILE or data.eval_share=0.05, or remove it"
    if sign == ">":
        return f"is read only with {name} above {wanted}", f"set {name}, or remove it"
    if wanted == "*":
        return f"is read only with {name}", f"set {name}, or remove it"
    if name == "quantisation.type":  # which only a choice of the group sets
        choices = [f"quantisation={each}" for each in wanted.split("|")]
        return f"is read only with {' or '.join(choices)}", f"choose {choices[0]}, or remove it"
    options = [f"[{each}]" if isinstance(value, list) else each for each in wanted.split("|")]
    add = f"set {name}" if "*" in options[0] else f"add {name}={options[0]}"
    return f"is read only with {name}={' or '.join(options)}", f"{add}, or remove it"


def layer_of(composed: Composed, name: str) -> int:
    """Which of WRITERS decided a condition's setting: the group file where nobody wrote it.

    Held-out rows follow from the settings of the data, and processes from the choice of hardware.
    """
    group, _, key = name.partition(".")
    if name == HELD_OUT:
        return max(composed.layer("data", each) for each in ("path", "mix", "eval_path", "eval_share"))
    if (group, key) in composed.origins or group == "hardware":
        return composed.layer(group, key)
    return 0


def problems(run: ResolvedRun, composed: Composed) -> Iterator[Problem]:
    """The problem of each written field that is not read under the run's other settings.

    A recipe's setting that the command line takes the ground from is the command's doing and no mistake:
    `recipe=X train.save_strategy=no` needs no second override.
    """
    classes = {field.owner for field in fields_of(run.method.config).values()}
    for group in ("train", "method", *_OWN):
        for key, value in composed.tree.get(group, {}).items():
            layer = composed.layer(group, key)
            # What a group file or a saved run holds was written for other settings than those of this command, too.
            if value is None or layer < WRITERS.index("recipe") or not _is_resolved(run, group, key):
                continue
            name, where = f"{group}.{key}", composed.where(group, key)
            row = row_of(name, None if group in _OWN else field_of(group, key, run.method))
            if row is None:
                continue
            if row.configs and not classes & set(row.configs):
                yield Problem(where, f"{name} is not read by the trainer of {run.method.name}", "remove it")
                continue
            failing = next((condition for condition in row.needs if not holds(run, condition)), None)
            if failing is not None and layer_of(composed, split(failing)[0]) <= layer:
                what, fix = _text(failing, current(run, split(failing)[0]))
                yield Problem(where, f"{name} {what}", fix)


def _is_resolved(run: ResolvedRun, group: str, key: str) -> bool:
    """Whether a written value is sound and in the spec; a faulty one is reported by itself."""
    settings = getattr(run.spec, group)
    return key in settings if group not in _OWN else hasattr(settings, key)
