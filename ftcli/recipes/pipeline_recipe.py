"""The short recipe of a pipeline: its choices, what all stages have in common, and what each has of its own.

A stage is written as pipeline.json has it. What it takes from another stage is not written, since the pipeline gives it
again. What all training stages have is written once; of rows, models and methods each stage says its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ftcli.config import recipe_yaml
from ftcli.config.compose import Request, StageRequest, compose
from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import BUILTIN, is_builtin
from ftcli.core.strict_yaml import KeyPath, load
from ftcli.methods import Pipeline, get_method
from ftcli.methods.pipeline import Stage
from ftcli.peft_methods import peft_method
from ftcli.pipelines.stages import MODEL, ROWS
from ftcli.pipelines.synthesis_stage import JUDGE
from ftcli.recipes.short_recipe import assembled, chosen_lines, first_sentence, relative, remarks, shipped
from ftcli.settings import library_fields
from ftcli.settings.backends import BackendSettings
from ftcli.settings.groups import GROUPS
from ftcli.synthesis import few_shot
from ftcli.synthesis.tasks import SETTINGS, Revise

_COMMON = ("hardware", "train", "peft", "quantisation", "run", "seed")
"""What is written once where all training stages agree: no other kind of stage reads it, but for the seed."""
_OF_THE_PIPELINE = ("dir", "name")
_GONE: Any = object()
_SEED = 42
Values = dict[str, dict[str, Any]]


@dataclass
class _Written:
    """What the recipe says of one stage."""

    choices: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    default: dict[str, Any] = field(default_factory=dict)
    """What its settings are otherwise."""


def recipe(
    pipeline: Pipeline, entries: Mapping[str, Mapping[str, Any]], folder: Path, name: str, provenance: list[str]
) -> tuple[str, list[str]]:
    """The text of a pipeline's recipe, and the names of what must be put beside it.

    Args:
        entries: each stage as pipeline.json has it.
        folder: where the recipe will lie.
        name: of its file, for the line that runs it.
        provenance: lines on where it comes from and what was measured.

    Raises:
        ConfigError: a stage reuses rows that another pipeline made, which no recipe can say.
    """
    if reused := [stage.name for stage in pipeline.stages if stage.task and entries[stage.name].get("ready")]:
        what = f"reuses the rows of stage {reused[0]} of another pipeline, and no recipe makes them again"
        raise ConfigError(Problem("ftcli recipe save", what, "save that pipeline, or start this one without --from"))
    runs = {stage.name: entries[stage.name] for stage in pipeline.stages if "tree" in entries[stage.name]}
    choices = _choices(pipeline, runs)
    stages = {stage.name: _of_run(stage, runs[stage.name], choices) for stage in pipeline.stages if stage.name in runs}
    common = _hoisted(pipeline, entries, stages)
    for stage in pipeline.stages:
        if stage.name in runs:
            first = _held_by(stage, stages.get(stage.like))
            own = stages[stage.name].choices = _further(stages[stage.name].choices, first, choices)
            first = _held_by(stage, stages.get(stage.like), own)
            _as_built_in(pipeline, stage, runs[stage.name], {**common}, first.values, stages[stage.name])
    for stage, for_tiny in _tasks(pipeline, entries):
        first = _held_by(stage, stages.get(stage.like))
        if entries[stage.name]["make"]["choice"] != first.choices.get(stage.role, "local"):
            first = _held_by(stage, stages.get(stage.like), (stage.role,))
            first.choices = dict(stages[stage.like].choices) if stage.like else {}
        stages[stage.name] = _of_task(pipeline, stage, entries[stage.name], common, for_tiny, first)
    elsewhere: list[str] = []
    options = {key: value for key, value in pipeline.chosen.items() if value != pipeline.options[key].default}
    top = relative({**({"method": options} if options else {}), **common}, folder, elsewhere, ())
    body = [*recipe_yaml.lines(top, _remark_of_top(pipeline, runs)), "stages:"]
    for stage in pipeline.stages:
        lines = list(_stage_lines(stage, entries[stage.name], stages.get(stage.name), folder, elsewhere))
        body += [f"  {stage.name}:", *lines] if lines else []
    purpose = f"{pipeline.name} in {len(pipeline.stages)} stages: {', '.join(stage.name for stage in pipeline.stages)}"
    chosen = chosen_lines({"method": pipeline.name, **choices})
    text = assembled(name, purpose, provenance, elsewhere, chosen, body[:-1] if body[-1] == "stages:" else body)
    return text, elsewhere


def _choices(pipeline: Pipeline, runs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The choices of the whole: of the model those of a stage that takes one, which can have no choice of its own."""
    takes_model = [name for name, kept in runs.items() if MODEL in kept["fed"]]
    of_all = shipped(runs[next(iter(runs))]["choices"])
    if takes_model:
        of_all["model"] = shipped(runs[takes_model[0]]["choices"])["model"]
    return {group: choice for group, choice in of_all.items() if group != "method"}


def _held_by(stage: Stage, first: _Written | None, chosen: Container[str] = ()) -> _Written:
    """What a stage of a later round has of the first round's.

    Args:
        chosen: the groups of which the recipe names a choice for it alone.
    """
    if first is None:
        return _Written()
    values: dict[str, Any] = {}
    for group, own in first.values.items():
        if group in chosen:
            continue
        if isinstance(own, dict):
            values[group] = {key: each for key, each in own.items() if f"{group}.{key}" not in stage.held_back}
        else:
            values[group] = own
    kept = first.choices.items()
    choices = {group: choice for group, choice in kept if group not in stage.held_back and group not in chosen}
    return _Written(choices=choices, values=values)


def _further(own: Mapping[str, str], first: _Written, choices: Mapping[str, str]) -> dict[str, str]:
    """The choices that a stage has to name: those that are not the first round's, or else those of the whole."""
    below = {**choices, **first.choices}
    wanted = {**{group: choice for group, choice in choices.items() if group in below}, **own}
    return {group: choice for group, choice in wanted.items() if below.get(group) != choice}


def _of_run(stage: Stage, kept: Mapping[str, Any], choices: Mapping[str, str]) -> _Written:
    """A training stage beside its choices alone."""
    own = {group: choice for group, choice in shipped(kept["choices"]).items() if group in choices}
    words = tuple(f"{group}={choice}" for group, choice in own.items())
    tree = compose(Request(overrides=words, stage=StageRequest(name=stage.name, method=stage.method))).tree
    different = {group: choice for group, choice in own.items() if choices[group] != choice}
    found = _Written(choices=different, values=_differing(stage, kept, tree), default=tree)
    judge = kept["tree"].get("method", {}).get("judge")
    if stage.role and judge:
        _add_judge(stage, judge, found, fed=JUDGE in kept["fed"])
    return found


def _differing(stage: Stage, kept: Mapping[str, Any], base: Mapping[str, Any]) -> Values:
    """The settings of a stage that are not those of a tree, without what it takes from other stages."""
    tree, found = kept["tree"], Values()
    for group in (*GROUPS, "run"):
        own = {key: value for key, value in tree.get(group, {}).items() if base[group].get(key, _GONE) != value}
        own |= {key: None for key in base[group] if key not in tree.get(group, {})}
        for key in ("name",) if group in ("method", "peft") else _OF_THE_PIPELINE if group == "run" else ():
            own.pop(key, None)
        if group == "method" and stage.role:
            own.pop("judge", None)
        if group == "data" and own.get("template") == "auto" and "template" not in base["data"]:
            del own["template"]
        if group == "data" and own.get("path", _GONE) is None and tree["data"].get("mix"):
            del own["path"]  # a mix does not read the group's own set
        for setting in kept["fed"]:
            own.pop(setting.removeprefix(f"{group}."), None)
        # What another stage would give and was set is set again, whatever it is.
        for setting in stage.takes:
            of, _, key = setting.partition(".")
            if of == group and setting not in (*kept["fed"], JUDGE) and key in tree[group]:
                own[key] = tree[group][key]
        if ROWS in kept["fed"] and isinstance(mix := own.get("mix") if group == "data" else None, Mapping):
            own["mix"] = {name: each for name, each in mix.items() if name != "made"}
        if own:
            found[group] = own
    if tree["seed"] != base["seed"]:
        found["seed"] = tree["seed"]
    return found


def _add_judge(stage: Stage, judge: Mapping[str, Any], found: _Written, *, fed: bool) -> None:
    """The judge that gives a run its rewards, as a role of the stage."""
    if judge.get("type", "local") != "local":
        found.choices[stage.role] = str(judge["type"])
    usual = {each.name: each.default for each in fields(BackendSettings)}
    own = {key: value for key, value in judge.items() if key != "type" and value not in (None, usual.get(key))}
    if fed:
        own.pop("model", None)
    if own:
        found.values[stage.role] = own


def _hoisted(
    pipeline: Pipeline, entries: Mapping[str, Mapping[str, Any]], stages: Mapping[str, _Written]
) -> dict[str, Any]:
    """What all training stages have, and the model of the first that takes none.

    A stage that takes its model reads that of the whole too, where it is asked whether it is the built-in one.
    """
    found: dict[str, Any] = {}
    if len(stages) < 2:
        return found
    for group in (*_COMMON, "model"):
        of = [name for name in stages if group != "model" or MODEL not in entries[name]["fed"]]
        own = [stages[name].values.get(group) for name in of]
        own = own[:1] if group == "model" else own
        if not own or any(each is None for each in own):
            continue
        if group == "seed":
            made = [entries[stage.name]["make"]["values"].get("seed", _SEED) for stage in pipeline.stages if stage.task]
            if len({*own, *made}) == 1:
                found["seed"] = own[0]
            continue
        first, *others = (each for each in own if each is not None)
        same = {key: value for key, value in first.items() if all(each.get(key, _GONE) == value for each in others)}
        if same:
            found[group] = same
    return found


def _as_built_in(
    pipeline: Pipeline,
    stage: Stage,
    kept: Mapping[str, Any],
    common: dict[str, Any],
    first: Mapping[str, Any],
    into: _Written,
) -> None:
    """Compare a stage with what the recipe's other lines make of it: what all have, what the first round has, and the
    built-in model's own."""
    base = copy.deepcopy(into.default)
    for group, values in first.items():
        if group in (*GROUPS, "run", "seed"):
            common[group] = {**common.get(group, {}), **values} if isinstance(values, dict) else values
    for group, values in common.items():
        base[group] = {**base[group], **values} if isinstance(values, dict) else values
    built_in = copy.deepcopy(base)
    for setting, value in pipeline.built_in(stage).items():
        group, _, key = setting.partition(".")
        if key not in common.get(group, {}):
            built_in[group][key] = value
    own = _differing(stage, kept, built_in)
    rows = own.get("data", {})
    model = own.get("model", {}).get("name_or_path", base["model"].get("name_or_path"))
    if model == BUILTIN and "mix" not in rows and is_builtin(rows.get("path", base["data"].get("path"))):
        base = built_in
    else:
        own = _differing(stage, kept, base)
    roles = {name: value for name, value in into.values.items() if name not in (*GROUPS, "run", "seed")}
    into.values, into.default = {**own, **roles}, base


def _tasks(pipeline: Pipeline, entries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Stage, bool]]:
    """The synthesis stages, each with whether a stage before it trains the built-in model on built-in rows."""
    for_tiny = False
    for stage in pipeline.stages:
        kept = entries[stage.name]
        if "make" in kept:
            yield stage, for_tiny
        elif "tree" in kept:
            tree = kept["tree"]
            for_tiny |= tree["model"]["name_or_path"] == BUILTIN and is_builtin(tree["data"].get("path"))


def _of_task(
    pipeline: Pipeline,
    stage: Stage,
    kept: Mapping[str, Any],
    common: Mapping[str, Any],
    for_tiny: bool,
    first: _Written,
) -> _Written:
    """A synthesis stage beside what its task, its choice and the built-in world set."""
    choice, values = kept["make"]["choice"], kept["make"]["values"]
    known = assets.choices(stage.role)
    base: dict[str, Any] = {f"make.{each.name}": each.default for each in fields(SETTINGS[stage.task])}
    base |= {f"{stage.role}.{each.name}": each.default for each in fields(BackendSettings)}
    if stage.task == Revise.name:
        base["make.examples"] = few_shot.DEFAULT
    base |= {"seed": common.get("seed", _SEED), "data.max_rows": None, "data.path": None}
    base |= pipeline.built_in(stage) if for_tiny else {}
    if choice in known:
        document = load(known[choice], f"configs/{stage.role}/{known[choice].name}")
        base |= {f"{stage.role}.{key}": value for key, value in document.data.items()}
    for group, own in first.values.items():
        base |= {f"{group}.{key}": each for key, each in own.items()} if isinstance(own, dict) else {group: own}
    chosen = choice in known and choice != first.choices.get(stage.role, "local")
    found = _Written(choices={stage.role: choice} if chosen else {})
    # What the first round sets and this one leaves open is written as open.
    unset = {f"{group}.{key}": None for group, own in first.values.items() if isinstance(own, dict) for key in own}
    for name, value in {**unset, **values}.items():
        if base.get(name, _GONE) == value or name == f"{stage.role}.type":
            continue
        group, _, key = name.partition(".")
        if key:
            found.values.setdefault(group, {})[key] = value
        else:
            found.values[group] = value
    return found


def _stage_lines(
    stage: Stage, kept: Mapping[str, Any], written: _Written | None, folder: Path, elsewhere: list[str]
) -> Iterator[str]:
    """The lines below the name of a stage."""
    if written is None:  # a finished model is used for it
        ready = relative(kept["ready"], folder, elsewhere, ("model", "name_or_path"))
        yield f"    model: {recipe_yaml.value_text(ready)}"
        return
    if written.choices:
        yield "    defaults:"
        yield from (f"    {line}" for line in chosen_lines(written.choices, {}))
    values = relative(written.values, folder, elsewhere, ())
    remark = _remark_of_task(stage) if stage.task else _remark_of_run(stage, kept, written)
    yield from (f"    {line}" for line in recipe_yaml.lines(values, remark))


def _remark_of_run(stage: Stage, kept: Mapping[str, Any], written: _Written) -> Callable[[KeyPath], str]:
    peft = peft_method({**kept["tree"].get("peft", {}), "name": kept["choices"]["peft"]})
    return remarks(get_method(stage.method), peft, written.default)


def _remark_of_task(stage: Stage) -> Callable[[KeyPath], str]:
    known = library_fields.fields_of(f"ftcli.synthesis.tasks:{SETTINGS[stage.task].__name__}")

    def remark(path: KeyPath) -> str:
        help_text = known[path[1]].help if len(path) == 2 and path[0] == "make" and path[1] in known else ""
        return "".join(first_sentence(help_text))

    return remark


def _remark_of_top(pipeline: Pipeline, runs: Mapping[str, Mapping[str, Any]]) -> Callable[[KeyPath], str]:
    """Of a pipeline's options what they decide; of what all stages have what the first one says of it."""
    first = next(iter(runs))
    nothing: Values = {group: {} for group in GROUPS}
    own = _remark_of_run(pipeline.stage(first), runs[first], _Written(default=nothing))

    def remark(path: KeyPath) -> str:
        if path[0] == "method":
            return "".join(first_sentence(pipeline.options[path[1]].text)) if len(path) == 2 else ""
        return own(path)

    return remark


def provenance(folder: Path, pipeline: Pipeline, of_run: Callable[[Path], Sequence[str]]) -> Iterator[str]:
    """What each training stage measured, and on what the first one ran.

    Args:
        of_run: the lines of one run.
    """
    hardware = ""
    for stage in pipeline.stages:
        if stage.method and (folder / stage.name).is_dir():
            first, *others = of_run(folder / stage.name)
            yield f"{stage.name}, {first}"
            hardware = hardware or "".join(others)
    if hardware:
        yield hardware
