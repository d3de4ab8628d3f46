"""The table of training defaults in docs/defaults.md: every method, adapter and size, with the source of each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftcli.build.derive_training import Situation, usual_rate, usual_rows
from ftcli.core import assets
from ftcli.core.strict_yaml import load
from ftcli.core.text import table
from ftcli.methods import Method, all_methods
from ftcli.methods.training_defaults import SHARED
from ftcli.peft_methods import PEFT_METHODS, peft_method
from ftcli.settings.run_spec import LaunchPlan
from ftcli.settings.sourced_defaults import BILLION, Default
from ftcli.tiny import defaults as built_in
from tools import result_tables

SIZES = (0.5, 1.7, 8, 14, 70)
"""Billions of parameters of the models in the tables of rates."""
FORMS: Mapping[str, Mapping[str, Any]] = {
    "prefix": {"prefix_projection": True},
    "prefix peft.prefix_projection=false": {"prefix_projection": False},
    "p_tuning peft.deep=true": {"deep": True},
}
"""Adapters whose rate depends on a setting of theirs, with that setting."""


def kinds() -> dict[str, Mapping[str, Any]]:
    """Every way to train, as it is typed behind `peft=`, with its settings."""
    named = {name: {"name": name} for name in ("none", *PEFT_METHODS)}
    forms = {form: {"name": form.split(" ")[0], **settings} for form, settings in FORMS.items()}
    return {**named, **forms}


def situation(method: Method, settings: Mapping[str, Any], parameters: int) -> Situation:
    """A run of the method with that adapter and a model of that size, as its group file has it."""
    given = {name: value for name, value in group("method", method.name).items() if name != "name"}
    peft = peft_method({**group("peft", str(settings["name"])), **settings})
    own = {**method.defaults, **given}
    launch = LaunchPlan()
    return Situation(
        method=method, own=own, peft=peft, quantised=False, parameters=parameters, launch=launch, earlier={}
    )


def group(name: str, choice: str) -> Mapping[str, Any]:
    """The values of a shipped group file."""
    values: Mapping[str, Any] = load(assets.choices(name)[choice]).data
    return values


def rate(method: Method, settings: Mapping[str, Any], billions: float) -> float:
    """The learning rate that a run gets."""
    return usual_rate(situation(method, settings, round(billions * BILLION)))[0]


def defaults() -> str:
    """A section for each method: its settings, its rates by size, and its rates by adapter and size."""
    return "\n".join(_section(method) for _, method in sorted(all_methods().items()))


def _section(method: Method) -> str:
    declared = method.training
    rates = [
        (size, f"{found.value:g}", found.source, found.measured)
        for size, found in _labelled("full fine-tuning", declared.full.named())
    ]
    rates += [
        (size, f"{found.value:g}", found.source, found.measured)
        for size, found in _labelled("LoRA", declared.adapter.named())
    ]
    head = f"## {method.name}\n\n{method.summary}\n\n"
    parts = [
        table(("Setting", "Value", "Source", "Measured"), _settings(method)),
        table(("Learning rate", "Value", "Source", "Measured"), rates),
        table(("`peft=`", *(f"{size:g}B" for size in SIZES), "From"), _by_adapter(method)),
    ]
    return head + "\n".join(parts)


def _labelled(what: str, bands: Iterator[tuple[str, Default]]) -> Iterator[tuple[str, Default]]:
    for size, found in bands:
        yield f"{what}, {size}", found


def _settings(method: Method) -> Iterator[tuple[str, str, str, str]]:
    declared = method.training
    _, words = usual_rows(situation(method, {"name": "none"}, BILLION))
    yield (
        "rows a step",
        words.replace(" a step", ""),
        declared.batch.source,
        declared.batch.measured or _compared(method),
    )
    for name, found in declared.settings.items():
        yield f"`train.{name}`", f"{found.value}", found.source, found.measured
    if declared.critic is not None and declared.least_critic is not None:
        value = f"{declared.critic.value} × the policy's, at least {declared.least_critic.value:g}"
        source = f"{declared.critic.source}; {declared.least_critic.source}"
        yield "`method.value_learning_rate`", value, source, declared.critic.measured
    for name, found in method.sources.items():
        yield f"`method.{name}`", f"{found.value}", found.source, found.measured


def _compared(method: Method) -> str:
    """What the comparison with three passes of eight rows, on the built-in model, says of the rows and the passes."""
    every = {each["name"]: each for each in result_tables.result("defaults", "benchmarks/defaults.py")["methods"]}
    if method.name not in every:
        return ""
    found = every[method.name]
    verdict = found["verdict"].replace("lower", "worse").replace("higher", "better")
    return f"[benchmarks/defaults.py](#what-was-measured-of-them), with the passes and the warm-up: {verdict}"


def _by_adapter(method: Method) -> Iterator[tuple[str, ...]]:
    for kind, settings in kinds().items():
        rates = [f"{rate(method, settings, size):g}" for size in SIZES]
        peft = peft_method({**group("peft", str(settings["name"])), **settings})
        of = "LoRA" if peft and peft.adapter else "full fine-tuning"
        factor = f" × {peft.rate_factor.value:g}" if peft and peft.rate_factor.value != 1 else ""
        yield (f"`{kind}`", *rates, f"{of}{factor}")


def adapters() -> str:
    """The factor of each adapter's rate, with its source and what was measured of it."""
    rows = []
    for kind, settings in kinds().items():
        peft = peft_method({**group("peft", str(settings["name"])), **settings})
        if peft is not None:
            found = peft.rate_factor
            rows.append((f"`{kind}`", f"{found.value:g}", found.source, found.measured))
    return table(("`peft=`", "Times LoRA's rate (of `freeze`: full fine-tuning's)", "Source", "Measured"), rows)


def adapter_settings() -> str:
    """The further defaults of each adapter, with their sources."""
    rows = [
        (f"`peft={name}`", f"`peft.{field}`", f"{found.value}", found.source)
        for name, peft in PEFT_METHODS.items()
        for field, found in peft.sources.items()
    ]
    return table(("Adapter", "Setting", "Value", "Source"), rows)


def shared() -> str:
    """The settings that all methods share unless they have their own."""
    rows = [(f"`train.{name}`", f"{found.value}", found.source) for name, found in SHARED.items()]
    return table(("Setting", "Value", "Source"), rows)


def of_the_built_in_model() -> str:
    """What the built-in model has in place of all that."""
    rows = [
        (name, f"{full:g}", f"{adapter:g}")
        for name, (full, adapter) in built_in.LEARNING_RATES.items()
        if name in all_methods()
    ]
    return table(("Method", "Full fine-tuning", "LoRA"), rows)


REGIONS = {
    "default-training": defaults,
    "default-adapters": adapters,
    "default-adapter-settings": adapter_settings,
    "default-shared": shared,
    "default-built-in": of_the_built_in_model,
}
