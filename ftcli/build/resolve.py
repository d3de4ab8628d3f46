"""Composed tree → resolved run. Problems are collected from every check and reported together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ftcli.build import derive, derive_training
from ftcli.build.checks import cross_group, field_checks
from ftcli.config import reach
from ftcli.config.compose import Composed, Request, compose
from ftcli.core.errors import ConfigError, DataError, Problem, RowProblem
from ftcli.core.paths import BUILTIN, is_builtin, is_template_path
from ftcli.core.plugins import plugin_loading
from ftcli.core.strict_yaml import KeyPath
from ftcli.data import row_sets
from ftcli.launch import profile
from ftcli.methods import Method, get_method
from ftcli.methods.method import further_models, with_model
from ftcli.models import known_shapes, sources
from ftcli.models.parameters import num_parameters
from ftcli.peft_methods import PeftMethod, peft_method
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings import run_spec
from ftcli.settings.groups import CARD, GROUPS, HALF_PRECISION, OWN_GROUPS, DataSettings
from ftcli.settings.run_spec import RunSpec

_EMPTY: dict[str, Any] = {**{group: {} for group in (*GROUPS, "run")}, "seed": 0}


def _still_fits(composed: Composed, key: str) -> bool:
    """Whether what the group file says of its model still holds: not where an override changed only the name."""
    return composed.layer("model", key) >= composed.layer("model", "name_or_path")


def _located(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with local paths made absolute, and each run's name replaced by the folder that it stands for now.

    The spec must mean the same later, from any working directory and after newer runs of that name.
    """
    data, model = dict(tree["data"]), dict(tree["model"])
    data.update({key: row_sets.all_absolute(data[key]) for key in ("path", "eval_path") if data.get(key)})
    if isinstance(data.get("mix"), dict):
        data["mix"] = {name: _located_set(settings) for name, settings in data["mix"].items()}
    name = model.get("name_or_path")
    source = sources.model_source(name) if name and name != BUILTIN else None
    if source is not None and source.folder is not None:
        model["name_or_path"] = str(source.folder)
    template = model.get("chat_template")
    if isinstance(template, str) and is_template_path(template):
        model["chat_template"] = row_sets.absolute(template)
    run = dict(tree["run"])
    if isinstance(run.get("retention"), str) and not is_builtin(run["retention"]):
        run["retention"] = row_sets.absolute(run["retention"])
    method = {**tree["method"]}
    for key, named, _ in further_models(method):
        source = sources.model_source(named)
        if source is not None and source.folder is not None:
            method = with_model(method, key, str(source.folder))
    if isinstance(method.get("judge_constitution"), str):
        method["judge_constitution"] = row_sets.absolute(method["judge_constitution"])
    return {**tree, "data": data, "model": model, "method": method, "run": run}


def _located_set(settings: Any) -> Any:
    sound = isinstance(settings, dict) and isinstance(settings.get("path"), (str, list))
    return {**settings, "path": row_sets.all_absolute(settings["path"])} if sound else settings


def _dated(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with `data.template` written out: a stored tree without it is from before that setting existed."""
    data = {"template": DataSettings.template, **tree["data"]}
    return {**tree, "data": data}


def _own(composed: Composed, group: str) -> Any:
    values = dict(composed.tree[group])
    if group == "model":
        values.update(dict.fromkeys(key for key in CARD if not _still_fits(composed, key)))
    return OWN_GROUPS[group](**values)


def _peft(composed: Composed) -> PeftMethod | None:
    settings = composed.tree.get("peft")
    return peft_method({**(settings if isinstance(settings, dict) else {}), "name": composed.choices["peft"]})


def _faulty(composed: Composed, method: Method) -> dict[KeyPath, Problem]:
    """The problem of each value that is wrong on its own."""
    peft = _peft(composed)
    found: dict[KeyPath, Problem] = {(key,): p for key, p in field_checks.check_top_level(composed, method).items()}
    for group in (*GROUPS, "run"):
        if group in composed.tree and (group,) not in found:
            faulty = field_checks.check_group(composed, group, method, peft)
            found |= {(group, key): problem for key, problem in faulty.items()}
    return found


def check_values(composed: Composed) -> list[Problem]:
    """The problems of single values: unknown, set elsewhere, of the wrong type, out of range, or not granted."""
    return list(_faulty(composed, get_method(composed.choices["method"])).values())


def build(composed: Composed) -> ResolvedRun:
    """The checked run of a composed tree.

    Raises:
        ConfigError: every problem at once, each with its place and remedy.
        DataError: the only problems are in the first row of a data file.
    """
    method = get_method(composed.choices["method"])
    faulty = _faulty(composed, method)
    problems = list(faulty.values())
    sound = {key: value for key, value in composed.tree.items() if (key,) not in faulty}
    for group in {*GROUPS, "run"} & sound.keys():
        sound[group] = {key: value for key, value in sound[group].items() if (group, key) not in faulty}
    # Rules across groups get the tree without its faulty values, so that one call reports every mistake: a bad value
    # neither hides the problems of others nor causes a second problem of its own.
    run = _resolve(replace(composed, tree={**_EMPTY, **sound}), method)
    problems.extend(cross_group.check(run, composed))
    if not problems and run.chooses_batch:
        from ftcli.build import auto_batch  # which plans each way to compute a step

        run = auto_batch.settled(run)
    if problems:
        raise (DataError if all(isinstance(problem, RowProblem) for problem in problems) else ConfigError)(*problems)
    return run


def _replayed(composed: Composed) -> Mapping[str, Mapping[str, Any]]:
    """What the run had that this one starts from, as resolved then, while method, model and adapter are the same.

    Defaults change between versions of ftcli; a run that is trained anew is trained as it was.
    """
    request = composed.request
    base = request.base or {}
    same = all(request.base_choices.get(group) == composed.choices[group] for group in ("method", "peft"))
    same = same and all(base.get(group) == composed.tree[group] for group in ("peft", "quantisation"))
    # A stage's model is what another one trained; its choice says whether it is of the same size.
    if request.stage is not None:
        return request.base_resolved if same and request.base_choices.get("model") == composed.choices["model"] else {}
    named = [tree.get("model", {}).get("name_or_path") for tree in (base, composed.tree)]
    return request.base_resolved if same and named[0] == named[1] else {}


def _resolve(composed: Composed, method: Method) -> ResolvedRun:
    notes = run_spec.Notes()
    composed = replace(composed, tree=_located(composed.tree))
    if composed.tree["data"].get("mix") is not None and composed.origin("data", "path").by == "group":
        # A mix does not read the data group's own set; without it, neither does a run that starts from this spec.
        composed = replace(composed, tree={**composed.tree, "data": {**composed.tree["data"], "path": None}})
    peft = _peft(composed)
    # Each derivation reads earlier ones: the device decides dtype and precision, the resolved model decides packing,
    # and the held-out rows decide evaluation and scoring.
    hardware = _own(composed, "hardware")
    launch = profile.launch_plan(hardware, notes)
    typed = _own(composed, "model")
    shape = known_shapes.model_shape(typed)
    data = derive.derive_data(_own(composed, "data"), method, notes)
    packs = method.packs and composed.tree["method"].get("packing") is not False and not (peft and peft.never_packs)
    length = data.max_length_tokens if packs and isinstance(data.max_length_tokens, int) else None
    # Learned vectors stand before the rows, answers are drawn while it trains, and a stream is read as it goes.
    measures = not (method.samples or data.streaming or (peft and peft.never_packs))
    model, measured = derive.derive_attention(
        typed, shape, launch, composed.tree["train"], notes, packed_tokens=length, measures=measures
    )
    model = derive.derive_dtype(model, launch, notes)
    quantisation = derive.derive_quantisation(_own(composed, "quantisation"), peft, composed, launch, notes)
    pure = typed.dtype in HALF_PRECISION and not (peft and peft.adapter)
    given = derive.derive_sharding(composed.tree["train"], profile.node_profile(hardware), notes)
    own = derive.derive_method(composed.tree["method"], method, peft, shape, model, data, notes)
    size = num_parameters(shape) if shape else None
    quantised, earlier = quantisation.type != "none", _replayed(composed)
    situation = derive_training.Situation(
        method=method, own=own, peft=peft, quantised=quantised, parameters=size, launch=launch, earlier=earlier
    )
    given, own = derive_training.derive_training(given, situation, notes)
    train = derive.derive_train(given, method, peft, data, launch, notes, pure=pure)
    scored = derive.has_validation(data, method) and method.score != "none"
    cheap = scored and size is not None and size <= derive.CHEAP_TO_SCORE_PARAMETERS
    run = derive.derive_run(
        _own(composed, "run"), method.name, composed.choices["model"], model.name_or_path, cheap, notes
    )
    run = derive.derive_loss_before(run, method, data, train, notes)
    spec = RunSpec(
        choices=composed.choices,
        seed=composed.tree["seed"],
        run=run,
        model=model,
        data=data,
        quantisation=quantisation,
        hardware=hardware,
        method={**method.defaults, **own, "name": method.name},
        peft={**derive.derive_peft(composed.tree["peft"], peft, shape, notes), "name": composed.choices["peft"]},
        train=train,
        launch=launch,
        attention_candidates=measured,
        grants=tuple(sorted(composed.request.grants)),
        plugins=plugin_loading.recorded(),
        tree=_dated(composed.tree),
    )
    derive.note_engine(spec, method, notes)
    spec = replace(spec, notes=tuple(notes.found), grants=tuple(sorted({*spec.grants, *_granted_as_typed(spec)})))
    return ResolvedRun(spec=spec, method=method, peft=peft, shape=shape)


def _granted_as_typed(spec: RunSpec) -> set[str]:
    """What was typed was granted with it: a job that goes on with this run by itself needs the flags."""
    found = reach.flags_of({group: getattr(spec, group) for group in ("method", "train", "peft")})
    return {*found, *reach.flags_of({group: asdict(getattr(spec, group)) for group in ("model", "hardware", "run")})}


def described(request: Request) -> ResolvedRun:
    """The run of a request whose values are sound one by one, whether or not they fit together: to show its options.

    Raises:
        ConfigError: the problems of single values.
    """
    return resolved(compose(request))


def resolved(composed: Composed) -> ResolvedRun:
    """The run of a composed tree whose values are sound one by one.

    Raises:
        ConfigError: the problems of single values.
    """
    if problems := check_values(composed):
        raise ConfigError(*problems)
    return _resolve(composed, get_method(composed.choices["method"]))


def run_of(request: Request) -> ResolvedRun:
    """Compose and build a run in one call.

    Raises:
        ConfigError: every problem at once.
    """
    return build(compose(request))


def spec_of(request: Request) -> RunSpec:
    """The spec of `run_of`, for callers that need only that.

    Raises:
        ConfigError: every problem at once.
    """
    return run_of(request).spec
