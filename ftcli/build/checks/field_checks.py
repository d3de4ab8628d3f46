"""Checks one value against one field: the field exists and is not set elsewhere, the value has its type and limits.

The fields are read from the installed libraries' source (settings/library_fields.py), so the library decides which
exist. Rules between several values are in cross_group.py.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ftcli.config import credentials, reach
from ftcli.config.compose import Composed
from ftcli.config.group_fields import group_fields, method_fields, settable
from ftcli.core.errors import Problem
from ftcli.core.hub_cache import is_revision
from ftcli.core.suggest import suggest
from ftcli.methods import Method, all_methods
from ftcli.peft_methods import PEFT_METHODS, PeftMethod, peft_method
from ftcli.settings import library_fields, limits
from ftcli.settings.batch_plan import AUTO, SIZE
from ftcli.settings.fields import field_table
from ftcli.settings.fields.field_row import FieldRow, Source
from ftcli.settings.groups import GROUPS
from ftcli.settings.library_fields import Field
from ftcli.settings.library_values import values_of
from ftcli.settings.limits import Limit

# Fields whose null means "derived"; everywhere else null must be allowed by the field's type.
DERIVED_FIELDS = frozenset(
    {
        "method.packing",
        "train.learning_rate",
        "train.num_train_epochs",
        "train.per_device_train_batch_size",
        "train.gradient_accumulation_steps",
        "train.lr_scheduler_type",
        "train.warmup_steps",
        "train.eval_strategy",
        "train.bf16",
        "train.gradient_checkpointing",
        "train.per_device_eval_batch_size",
    }
)


def _numbers(value: Any) -> Iterable[float]:
    if isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)


def _matches(value: str, option: str) -> bool:
    """Equality, where an option like `pissa_niter_[number of iters]` stands for a family."""
    pattern = re.sub(r"\\\[.*?\\\]", r"\\d+", re.escape(option))
    return re.fullmatch(pattern, value) is not None


def choices_of(field: Field, limit: Limit | None, row: FieldRow | None) -> tuple[str, ...]:
    """The words that a field takes: those that its method declares, its row, or its annotation; () where it is free."""
    if limit is not None and limit.choices:
        return limit.choices
    if row is not None and row.choices:
        return values_of(row.choices) if isinstance(row.choices, Source) else row.choices
    return library_fields.options(field)


def type_problem(name: str, value: Any, field: Field, limit: Limit | None, where: str) -> Problem | None:
    """The problem of a value that has the wrong type or is not one of the field's choices."""
    row = field_table.row_of(name, field)
    listed = choices_of(field, limit, row)
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    if row is not None and row.spaced and isinstance(value, str):
        texts = value.split()
    if listed and texts and all(isinstance(text, str) for text in texts):
        wrong = [text for text in texts if not any(_matches(text, option) for option in listed)]
        if wrong:
            return Problem(where, f"{wrong[0]} is not a value of {name}", suggest(wrong[0], listed, f"{name}="))
        return None
    is_mapping = limit is not None and limit.mapping and isinstance(value, dict)
    if is_mapping or library_fields.accepts(field.annotation, value):
        return None
    what = f"{name} is {value!r}, which is not {_type_text(field)}"
    fix = "write true or false, without quotes" if "bool" in field.type_text else f"give {_type_text(field)}"
    if listed:
        fix = f"choose from {', '.join(listed)}"
    return Problem(where, what, fix)


_TYPE_NAMES = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "dict": "a mapping",
    "list": "a list", "tuple": "a list", "None": "null",
}  # fmt: skip


def _type_names(annotation: ast.expr) -> list[str]:
    """The types that an annotation accepts, in plain words."""
    if isinstance(annotation, ast.BinOp):
        return [*_type_names(annotation.left), *_type_names(annotation.right)]
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _type_names(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Subscript):
        name = getattr(annotation.value, "id", "")
        parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if name in ("Optional", "Union"):
            return [word for part in parts for word in _type_names(part)] + (["null"] if name == "Optional" else [])
        return [ast.unparse(part) for part in parts] if name == "Literal" else [_TYPE_NAMES.get(name, name)]
    text = ast.unparse(annotation)
    return [_TYPE_NAMES.get(text, text)]


def _type_text(field: Field) -> str:
    text = " or ".join(dict.fromkeys(_type_names(field.annotation)))
    return text.replace("a mapping", "a mapping of text to text") if "dict[str, str]" in field.type_text else text


def field_of(group: str, key: str, method: Method) -> Field | None:
    """The field of a trainer config that a setting of `train` or `method` sets, as the method's config declares it."""
    config = library_fields.TRAINING_ARGUMENTS if group == "train" else method.config
    return library_fields.fields_of(config).get(key)


def limit_problem(name: str, value: Any, limit: Limit | None, where: str) -> Problem | None:
    """The problem of a number that is NaN, infinite, or outside its limits."""
    for number in _numbers(value):
        if isinstance(number, float) and not math.isfinite(number):
            return Problem(where, f"{name} is {number}, which is not a finite number", "give a finite number")
        if abs(number) > limits.MOST:
            return Problem(where, f"{name} is out of range", f"no setting takes a number above {limits.MOST:.0e}")
        if limit is None:
            continue
        low, high = limit.low, limit.high
        too_low = low is not None and (number <= low if limit.open_low else number < low)
        too_high = high is not None and (number >= high if limit.open_high else number > high)
        if too_low or too_high:
            bounds = ([f"above {low}" if limit.open_low else f"at least {low}"] if low is not None else []) + (
                [f"below {high}" if limit.open_high else f"at most {high}"] if high is not None else []
            )
            what = f"{name}={number} is out of range"
            return Problem(where, what, f"{name} must be {' and '.join(bounds)}")
    return None


def unknown(composed: Composed, group: str, key: str, method: Method, fields: Mapping[str, Field]) -> Problem:
    """The problem of an unknown field: an option of another method or another group, or a typo."""
    name, where = f"{group}.{key}", composed.where(group, key)
    if group == "peft" and not fields:
        near = [peft.name for peft in PEFT_METHODS.values() if key in settable("peft", peft.fields(), peft)]
        fix = f"add peft={near[0]}, or remove it" if near else "remove it"
        return Problem(where, f"{name} has no effect with peft=none, which trains all parameters", fix)
    if group == "method":
        others = [other.name for other in all_methods().values() if key in method_fields(other)]
        if others:
            fix = (
                f"remove it, or choose method={others[0]}"
                if len(others) == 1
                else "remove it, or choose one of those methods"
            )
            return Problem(where, f"{name} is an option of {', '.join(others)}, not of {method.name}", fix)
    for other in ("train", "method", "data", "model", "run"):
        if other != group and key in settable(other, group_fields(other, method, None)):
            return Problem(where, f"{name} is not an option of {group}", f"did you mean {other}.{key}?")
    owner = f"{group}={composed.choices[group]}" if group in composed.choices else group
    if owner == "peft=other":
        kind = composed.tree["peft"].get("type")
        if kind is None:
            return Problem(
                where, f"{name} cannot be looked up: {owner} needs peft.type", "name the tuner with peft.type=TYPE"
            )
        owner += f" peft.type={kind}"
    from ftcli.config.key_hints import exact_remedy

    recipe, chosen = composed.origin(group, key).by == "recipe", {f"{group}.{each}" for each in settable(group, fields)}
    if hint := exact_remedy(key, composed.tree[group].get(key), recipe=recipe, chosen=chosen, group=group):
        return Problem(where, f"{name} is not an option of {owner}", hint)
    fix = suggest(key, settable(group, fields), f"{group}.") + f"  (ftcli show {group} {owner} lists them)"
    return Problem(where, f"{name} is not an option of {owner}", fix)


def check_group(composed: Composed, group: str, method: Method, peft: PeftMethod | None) -> dict[str, Problem]:
    """The problem of each faulty value of one group, by key."""
    fields, found = group_fields(group, method, peft), {}
    own_limits: Mapping[str, Limit] = {"method": method.limits, "peft": peft.limits if peft else {}}.get(group, {})
    for key, value in composed.tree[group].items():
        limit = own_limits.get(key) or limits.LIMITS.get(f"{group}.{key}")
        taken = _taken_by_peft(composed, key, value, peft) if group == "peft" and peft else None
        problem = taken or _check_value(composed, group, key, value, limit, fields, method)
        if problem is not None:
            found[key] = problem
    return found


def _taken_by_peft(composed: Composed, key: str, value: Any, peft: PeftMethod) -> Problem | None:
    """The problem of a field that defines the PEFT method, or that its tuner sets itself."""
    name, where = f"peft.{key}", composed.where("peft", key)
    if key in peft.owned:
        return Problem(where, f"{name} is owned by {peft.owned[key]}", "remove it")
    if key in peft.fixed and value != peft.fixed[key]:
        fixed = str(peft.fixed[key]).lower()
        return Problem(where, f"{name} is always {fixed} under peft={peft.name}", "remove it, or choose another peft=")
    return None


def _check_value(
    composed: Composed,
    group: str,
    key: str,
    value: Any,
    limit: Limit | None,
    fields: Mapping[str, Field],
    method: Method,
) -> Problem | None:
    name, where = f"{group}.{key}", composed.where(group, key)
    if key == "name" and group in ("method", "peft"):
        same = value == composed.choices[group]
        return None if same else Problem(where, f"{name} is not a setting", f"choose with {group}=NAME")
    if name == "quantisation.type" and composed.origin(group, key).by in ("recipe", "cli"):
        return Problem(where, f"{name} is set by the choice of quantisation", "choose with quantisation=NAME")
    if name in field_table.OWNERS:
        return Problem(where, f"{name} is owned by {field_table.OWNERS[name]}", f"use {field_table.OWNERS[name]}")
    if name in field_table.REFUSED:
        return Problem(where, f"{name} is refused: {field_table.REFUSED[name]}", "remove it")
    if key not in fields:
        return unknown(composed, group, key, method, fields)
    if held := credentials.held_by(value):
        return credential_problem(name, held, where)
    if (revision := _odd_revision(key, value)) is not None:
        what = f"{name} is {revision!r}, which is no branch, tag or commit"
        return Problem(where, what, "write a word, or words with slashes between")
    if (value is None and name in DERIVED_FIELDS) or (name == f"train.{SIZE}" and value == AUTO):
        return None
    return (
        type_problem(name, value, fields[key], limit, where)
        or limit_problem(name, value, limit, where)
        or reach.problem(composed, name, value, (group, key), fields[key])
    )


def credential_problem(name: str, held: str, where: str) -> Problem:
    """The problem of a value with a password or token in it, which would be saved with the run."""
    what = f"{name} holds {held}, which would be saved in the run directory"
    fix = "leave it out: web addresses take it from ~/.netrc, stores and the hub from their own settings or variables"
    return Problem(credentials.masked(where), what, fix)


def _odd_revision(key: str, value: Any) -> object | None:
    """The first revision of a value, or inside it, that is none."""
    if isinstance(value, Mapping):
        found = (_odd_revision(str(inner), own) for inner, own in value.items())
        return next((each for each in found if each is not None), None)
    return value if key == "revision" and isinstance(value, str) and not is_revision(value) else None


def _unknown_top_level(composed: Composed, key: str, value: Any, method: Method) -> Problem:
    """The problem of a key that is neither a group nor a setting, with the right names of the keys below it."""
    from ftcli.config.key_hints import nested, remedy

    recipe = composed.origin(key).by == "recipe"
    settings = composed.tree.get("peft")
    peft = peft_method({**(settings if isinstance(settings, dict) else {}), "name": composed.choices["peft"]})
    chosen = {f"method.{each}" for each in settable("method", method_fields(method))}
    chosen |= {f"peft.{each}" for each in settable("peft", peft.fields(), peft)} if peft else set()

    def hint(name: str, own: Any) -> str | None:
        return remedy(name, own, recipe=recipe, chosen=chosen)

    inner = [f"{name} is {hint(name, own)}" for _, name, own in nested(key, value)]
    fix = "; ".join(inner) or hint(key, value) or suggest(key, (*GROUPS, "run", "seed", "recipe"), "")
    return Problem(composed.where(key), f"{key} is not a group or setting", fix)


def check_top_level(composed: Composed, method: Method) -> dict[str, Problem]:
    """The problem of each faulty key outside the groups: the seed, and mistyped names."""
    found = {}
    for key, value in composed.tree.items():
        where, problem = composed.where(key), None
        if key in GROUPS or key == "run":
            if not isinstance(value, dict):
                problem = Problem(where, f"{key} needs settings, not {value!r}", f"{key}.KEY=VALUE")
        elif key == "seed":
            if not isinstance(value, int) or isinstance(value, bool):
                problem = Problem(where, f"seed is {value!r}, which is not a whole number", "for example seed=42")
            else:
                problem = limit_problem("seed", value, limits.LIMITS["seed"], where)
        else:
            problem = _unknown_top_level(composed, key, value, method)
        if problem is not None:
            found[key] = problem
    return found
