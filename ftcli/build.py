"""Composed tree → RunSpec, every problem collected before anything is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcli import checks, derive, fieldcheck, sources
from ftcli.compose import Composed, Request, compose
from ftcli.errors import ConfigError
from ftcli.methods import Method, get_method
from ftcli.peft_methods import PEFT_METHODS
from ftcli.settings import GROUPS, OWN_GROUPS
from ftcli.shapes import Shape, num_parameters
from ftcli.sources import BUILTIN
from ftcli.spec import RunSpec


_EMPTY: dict[str, Any] = {**{group: {} for group in (*GROUPS, "run")}, "seed": 0}


def _shape_still_fits(composed: Composed) -> bool:
    """Whether the group file's shape describes the model: not when only the name was changed over it."""
    named = composed.origin("model", "name_or_path")
    shaped = composed.origin("model", "shape")
    return named.by == shaped.by == "group" or shaped.by != "group"


def _absolute(path: str | None) -> str | None:
    return str(Path(path).expanduser().resolve()) if path is not None and path != BUILTIN else path


def _located(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with local paths made absolute and a run's name replaced by the run that it means today."""
    data, model = dict(tree["data"]), dict(tree["model"])
    data.update({key: _absolute(data[key]) for key in ("path", "eval_path") if data.get(key)})
    name = model.get("name_or_path")
    source = sources.model_source(name) if name and name != BUILTIN else None
    if source is not None and source.folder is not None:
        model["name_or_path"] = str(source.folder)
    return {**tree, "data": data, "model": model}


def _own(composed: Composed, group: str) -> Any:
    values = dict(composed.tree[group])
    if group == "model" and not _shape_still_fits(composed):
        values["shape"] = None
    return OWN_GROUPS[group](**values)


def build(composed: Composed) -> RunSpec:
    """The checked run spec of a composed tree.

    Raises:
        ConfigError: everything that is wrong, at once, each with its place and remedy.
    """
    method = get_method(composed.choices["method"])
    peft = PEFT_METHODS.get(composed.choices["peft"])
    top = fieldcheck.check_top_level(composed, method)
    problems = list(top.values())
    sound = {key: value for key, value in composed.tree.items() if key not in top}
    for group in (*GROUPS, "run"):
        if group in sound:
            faulty = fieldcheck.check_group(composed, group, method, peft)
            problems.extend(faulty.values())
            sound[group] = {key: value for key, value in sound[group].items() if key not in faulty}
    # The rules across groups look at what is sound, so that one run tells of every mistake.
    spec, shape = _resolve(replace(composed, tree={**_EMPTY, **sound}), method)
    problems.extend(checks.check(spec, method, composed, shape))
    if problems:
        raise ConfigError(*problems)
    return spec


def _resolve(composed: Composed, method: Method) -> tuple[RunSpec, Shape | None]:
    notes = derive.Notes()
    composed = replace(composed, tree=_located(composed.tree))
    peft = PEFT_METHODS.get(composed.choices["peft"])
    hardware = _own(composed, "hardware")
    launch = derive.launch_plan(hardware, notes)
    model = _own(composed, "model")
    shape = derive.model_shape(model)
    model = derive.derive_model(model, shape, launch, notes)
    data = derive.derive_data(_own(composed, "data"), method, shape, notes)
    train = derive.derive_train(composed.tree["train"], method, peft is not None, data, launch, notes)
    size = num_parameters(shape) if shape else None
    cheap = derive.has_validation(data, method) and size is not None and size <= derive.CHEAP_TO_SCORE_PARAMETERS
    run = derive.derive_run(_own(composed, "run"), method.name, composed.choices["model"], model.name_or_path, cheap, notes)
    spec = RunSpec(
        choices=composed.choices,
        seed=composed.tree["seed"],
        run=run,
        model=model,
        data=data,
        quantisation=_own(composed, "quantisation"),
        hardware=hardware,
        method={**method.defaults, **composed.tree["method"], "name": method.name},
        peft={**(peft.defaults if peft else {}), **composed.tree["peft"], "name": composed.choices["peft"]},
        train=train,
        launch=launch,
        notes=tuple(notes.found),
        grants=tuple(sorted(composed.request.grants)),
        tree=composed.tree,
    )
    return spec, shape


def spec_of(request: Request) -> RunSpec:
    """Compose and build in one go.

    Raises:
        ConfigError: everything that is wrong.
    """
    return build(compose(request))
