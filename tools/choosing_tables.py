"""The tables of docs/choosing.md and the decision table of the README, from the rules of `ftcli advise`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ftcli.advise.adapter_rules import ADAPTER_RULES, ON_CPU, SIZES, AdapterRule
from ftcli.advise.goals import GOALS, OF_DATA
from ftcli.advise.method_rules import METHOD_RULES, MethodRule
from ftcli.cli.output import count
from ftcli.core.text import table
from ftcli.data.formats.registry import DATASET_TYPES
from ftcli.methods import all_pipelines

_USUAL = ("gpu", "prompts", "ladder")
"""What a situation usually has; a rule that asks for more is no usual choice."""


def decision() -> str:
    """Rows and goal → the method that comes first for them."""
    rows = [(f"{name}", *(_first(kind, goal) for goal in GOALS)) for kind, name in DATASET_TYPES.items()]
    return table(("You have", *(f"for {goal}" for goal in GOALS)), rows)


def _first(kind: str, goal: str) -> str:
    """The method that comes first for many rows of a type; with `*` where a rule must be able to check the answers."""
    known = {*_USUAL, "checkable"} if goal == "checkable" else {*_USUAL}
    fitting = [
        rule
        for rule in METHOD_RULES
        if goal in rule.points
        and (not rule.when.kinds or kind in rule.when.kinds)
        and rule.when.rows[1] is None
        and {*rule.when.traits} <= known
    ]
    if not fitting:
        return ""
    best = max(fitting, key=lambda rule: rule.points[goal])
    return f"`{best.method}`" + ("\\*" if "checkable" in best.when.traits else "")


def goals() -> str:
    """The goals, what each means, and the rows for which it is assumed."""
    rows = []
    for name, goal in GOALS.items():
        kinds = [DATASET_TYPES[kind] for kind, usual in OF_DATA.items() if usual == name]
        rows.append((f"`--goal {name}`", goal.summary, ", ".join(kinds), ", ".join(f"{word}…" for word in goal.words)))
    return table(("Goal", "Means", "Assumed for", "Guessed from words that begin with"), rows)


def methods() -> str:
    """Every rule for a method."""
    rows = []
    for rule in METHOD_RULES:
        points = ", ".join(
            f"{goal} {worth:g}" for goal, worth in sorted(rule.points.items(), key=lambda each: -each[1])
        )
        rows.append(
            (
                f"`{rule.method}`",
                rule.when.words,
                points,
                rule.reason,
                rule.gives_up,
                _runs(rule),
                "; ".join(rule.sources),
            )
        )
    return table(("Method", "When", "Points for a goal", "Because", "Gives up", "Runs", "Sources"), rows)


def _runs(rule: MethodRule) -> str:
    """How many trainings it is: the complexity of the pipeline."""
    if not rule.stages:
        return "1"
    own = {name.removeprefix("method."): value for name, value in rule.settings.items() if name.startswith("method.")}
    stages = all_pipelines()[rule.method].arranged(own).stages
    trained = sum(not stage.task for stage in stages) - len(rule.ready)
    made = sum(bool(stage.task) for stage in stages)
    return f"{trained}" + (f", and {made} stages that make rows" if made else "")


def adapters() -> str:
    """Every rule for an adapter."""
    rows = [
        (f"`peft={rule.adapter}`", _when(rule), f"{rule.points:g}", rule.reason, rule.gives_up, "; ".join(rule.sources))
        for rule in ADAPTER_RULES
    ]
    return table(("Adapter", "When", "Points", "Because", "Gives up", "Sources"), rows)


def _when(rule: AdapterRule) -> str:
    parts = [rule.when.words] if rule.when.words != "always" else []
    parts += [f"for {' or '.join(rule.goals)}"] if rule.goals else []
    parts += [f"with {' or '.join(rule.methods)}"] if rule.methods else []
    parts += [f"models of up to {count(rule.most_parameters)} parameters"] if rule.most_parameters else []
    return "; ".join(parts) or "always"


def sizes() -> str:
    """The models that are advised where none is named."""
    rows = [
        (f"`model={size.instruct}`", f"`model={size.base}`", count(size.parameters), _starts(size.instruct))
        for size in SIZES
    ]
    return table(("Answers", "Continues text", "Parameters", "The largest that is tried"), rows)


def _starts(name: str) -> str:
    """Where the search for a model that fits begins with this one."""
    largest = [rule.method for rule in METHOD_RULES if rule.most == name]
    index = next(index for index, size in enumerate(SIZES) if size.instruct == name)
    below = SIZES[index + 1].instruct if index + 1 < len(SIZES) else None
    larger = [rule.method for rule in METHOD_RULES if rule.most == below]
    parts = [f"for {', '.join(dict.fromkeys(largest))}"] if largest else []
    parts += [f"in 4 bits for {', '.join(dict.fromkeys(larger))}"] if larger else []
    parts += ["without a GPU"] if name == ON_CPU else []
    return "; ".join(parts)


REGIONS: Mapping[str, Callable[[], str]] = {
    "decision": decision,
    "goals": goals,
    "method-rules": methods,
    "adapter-rules": adapters,
    "advised-models": sizes,
}
