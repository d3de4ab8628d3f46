"""What LoRA can start from: every initialisation of the installed PEFT, and what each one needs.

The usual ones start at zero or from the weights themselves. EVA, CorDA and LoRA-GA look at rows of the run's own
training data first, and LoftQ at the weights before they were quantised. What they found is kept in the run directory,
so that a resumed run starts from the same numbers (ftcli/worker/tuners/initialised.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftcli.core.errors import Problem
from ftcli.core.suggest import suggest
from ftcli.models.layout import Module
from ftcli.settings.library_fields import accepts, fields_of, options, value_of
from ftcli.settings.limits import Limit

Settings = Mapping[str, Any]
NAME = "peft.init_lora_weights"
INPUTS, GRADIENTS = "inputs", "gradients"


@dataclass(frozen=True, kw_only=True)
class Initialisation:
    """One value of `init_lora_weights`."""

    summary: str
    paper: str = ""
    plain: bool = False
    """Whether it needs nothing of the base weights but their shapes."""
    moves_base: bool = False
    """Whether a part of the base weights is taken out of them, or something is, and put into the adapter."""
    looks_at: str = ""
    """What it computes from training rows before the run: "inputs" of the layers, "gradients" of their weights, or
    nothing."""
    unquantised: str = ""
    """Why it cannot start on quantised weights; empty where it can."""
    not_with: tuple[str, ...] = ()
    """Settings of LoRA that it excludes."""
    config: str = ""
    """The setting with its own options, a mapping; empty where it has none."""
    config_class: str = ""
    owned: Mapping[str, str] = field(default_factory=dict)
    """Entries of that mapping that the user may not set → why."""
    bounds: Mapping[str, Limit] = field(default_factory=dict)
    """Limits of entries of that mapping, which PEFT checks later or not at all."""


_RESIDUAL = "moves a part of the base weights into the adapter and needs them unquantised"
_NO_RESIDUAL = ("use_dora", "target_parameters")
_FILE = "is not used: the run directory keeps what was computed, and a resumed run reads it there"
_TUNERS = "peft.tuners.lora.config:"

INITIALISATIONS: Mapping[str, Initialisation] = {
    "true": Initialisation(summary="A random, B zero", paper="Hu et al. 2021, arXiv:2106.09685", plain=True),
    "false": Initialisation(
        summary="A and B random, so that the start is not the base: for tests of LoRA itself", plain=True
    ),
    "gaussian": Initialisation(summary="A normal with a deviation of 1/r, B zero", plain=True),
    "orthogonal": Initialisation(
        summary="A and B random and orthogonal to each other; even ranks only",
        unquantised="makes its matrices in the type of the base weights, and quantised ones have no such type",
    ),
    "olora": Initialisation(
        summary="the first r columns of the weights' QR decomposition",
        paper="Büyükakyüz 2024, arXiv:2406.01775",
        moves_base=True, unquantised=_RESIDUAL, not_with=_NO_RESIDUAL,
    ),
    "pissa": Initialisation(
        summary="the r largest singular values of the weights with their vectors",
        paper="Meng et al. 2024, arXiv:2404.02948",
        moves_base=True, unquantised=_RESIDUAL, not_with=_NO_RESIDUAL,
    ),
    "pissa_niter_[number of iters]": Initialisation(
        summary="the same by a fast decomposition in that many iterations",
        paper="Meng et al. 2024, arXiv:2404.02948",
        moves_base=True, unquantised=_RESIDUAL, not_with=_NO_RESIDUAL,
    ),
    "mica": Initialisation(
        summary="B frozen at the r smallest singular vectors of the weights, A zero and alone trained",
        paper="arXiv:2604.01694",
        unquantised="takes singular vectors of the base weights and needs them unquantised",
        not_with=("use_dora", "target_parameters"),
    ),
    "eva": Initialisation(
        summary="A spans what varies most in the layers' inputs, and ranks go where most is explained; B zero",
        paper="Paischer et al. 2024, arXiv:2410.07170",
        looks_at=INPUTS, not_with=("target_parameters", "layers_to_transform"),
        config="eva_config", config_class=f"{_TUNERS}EvaConfig",
        owned={"label_mask_value": "is always -100, as tokens that are not trained are marked"},
        bounds={"rho": Limit(low=1), "tau": Limit(low=0, high=1)},
    ),
    "corda": Initialisation(
        summary="singular vectors of the weights, weighted by the covariance of the layers' inputs",
        paper="Yang et al. 2024, arXiv:2406.05223",
        moves_base=True, looks_at=INPUTS, unquantised=_RESIDUAL, not_with=_NO_RESIDUAL,
        config="corda_config", config_class=f"{_TUNERS}CordaConfig",
        owned={
            "cache_file": _FILE, "covariance_file": _FILE,
            "verbose": "has no effect here", "prune_temporary_fields": "has no effect here",
        },
    ),
    "lora_ga": Initialisation(
        summary="singular vectors of the loss's gradient, so that the first step is that of full fine-tuning",
        paper="Wang et al. 2024, arXiv:2407.05000",
        moves_base=True, looks_at=GRADIENTS, unquantised=_RESIDUAL, not_with=_NO_RESIDUAL,
        config="lora_ga_config", config_class=f"{_TUNERS}LoraGAConfig",
        bounds={"stable_gamma": Limit(low=1)},
    ),
    "loftq": Initialisation(
        summary="the singular vectors of what 4 bits leave out of the weights",
        paper="Li et al. 2023, arXiv:2310.08659",
        not_with=("use_dora", "target_parameters"),
        config="loftq_config", config_class=f"{_TUNERS}LoftQConfig",
        owned={
            "loftq_bits": "follows quantisation=",
            "loftq_iter": "is always 1: after another round the base would be one that nobody can load",
        },
    ),
}  # fmt: skip
WORDS = tuple(name for name in INITIALISATIONS if name not in ("true", "false"))


@dataclass(frozen=True, kw_only=True)
class InitialisationSettings:
    """What ftcli adds to PEFT's LoRA for initialisations that look at data."""

    init_rows: int = 256
    """Training rows that EVA, CorDA and LoRA-GA look at, evenly spread over the data; CorDA's authors use 256."""


def initialisation(settings: Settings) -> Initialisation:
    """The initialisation that the settings ask for."""
    start = settings.get("init_lora_weights")
    name = re.sub(r"_niter_\d+$", "_niter_[number of iters]", str(True if start is None else start).lower())
    return INITIALISATIONS.get(name, INITIALISATIONS["true"])


def problems(settings: Settings) -> Iterator[Problem]:
    """What an initialisation excludes, and faults within its own mapping of options."""
    start, chosen = settings.get("init_lora_weights"), initialisation(settings)
    for name in chosen.not_with:
        if settings.get(name) not in (None, False, [], {}):
            yield Problem(NAME, f"{NAME}={start} cannot be combined with peft.{name}", "remove one of them")
            return
    if settings.get("init_rows") is not None and not chosen.looks_at:
        takers = ", ".join(name for name, each in INITIALISATIONS.items() if each.looks_at)
        what = f"peft.init_rows has no effect: init_lora_weights={start} looks at no rows"
        yield Problem("peft.init_rows", what, f"remove it; {takers} read it")
    for name, each in INITIALISATIONS.items():
        options_given = settings.get(each.config) if each.config else None
        if options_given in (None, {}):
            continue
        if each is not chosen:
            what = f"peft.{each.config} has no effect with init_lora_weights={start}"
            yield Problem(f"peft.{each.config}", what, f"add {NAME}={name}, or remove it")
        else:
            yield from _inside(f"peft.{each.config}", options_given, each)


def _inside(name: str, given: Any, about: Initialisation) -> Iterator[Problem]:
    if not isinstance(given, Mapping):
        yield Problem(name, f"{name} is {given!r}, which is not a mapping", "write {NAME: VALUE}")
        return
    fields = fields_of(about.config_class)
    for key, value in given.items():
        if key in about.owned:
            yield Problem(name, f"{name}.{key} {about.owned[key]}", "remove it")
        elif key not in fields:
            yield Problem(
                name, f"{name} has no entry {key}", suggest(str(key), sorted(set(fields) - set(about.owned)), "")
            )
        elif (words := options(fields[key])) and value not in words:
            yield Problem(name, f"{name}.{key}={value} is not one of its values", f"choose from {', '.join(words)}")
        elif not accepts(fields[key].annotation, value):
            yield Problem(name, f"{name}.{key}={value!r} is not of its type", f"give {fields[key].type_text}")
        elif (limit := about.bounds.get(key)) and not _within(value, limit):
            ends = [f"at least {limit.low}"] + ([f"at most {limit.high}"] if limit.high is not None else [])
            yield Problem(name, f"{name}.{key}={value} is out of range", f"give {' and '.join(ends)}")


def _within(value: float, limit: Limit) -> bool:
    # Comparisons with NaN are false, so NaN lies within no limits.
    return (limit.low is None or value >= limit.low) and (limit.high is None or value <= limit.high)


def refuses(quantisation: str, settings: Settings) -> str | None:
    """Why the initialisation cannot be combined with how the base is stored; "none" is an unquantised base."""
    start, chosen = settings.get("init_lora_weights"), initialisation(settings)
    if quantisation != "none" and chosen.unquantised:
        return f"init_lora_weights={start} {chosen.unquantised}"
    if chosen is INITIALISATIONS["loftq"] and quantisation not in ("nf4", "nf4_double", "fp4"):
        return "init_lora_weights=loftq starts from what a 4-bit quantisation of the run leaves out of the weights"
    return None


def refuse_ranks(settings: Settings, adapted: Sequence[tuple[Module, int]]) -> None:
    """Refuse a rank that a layer is too narrow for, which PEFT would meet in the decomposition or cut without a word.

    Raises:
        ValueError: names the layer and the largest rank there.
    """
    start, chosen = settings.get("init_lora_weights"), initialisation(settings)
    decomposes = chosen.moves_base or chosen.unquantised.startswith("takes") or chosen is INITIALISATIONS["loftq"]
    spread = rank_spread(settings)
    for module, rank in adapted:
        if module.kind != "linear":
            continue
        widest = module.in_features
        if chosen is INITIALISATIONS["lora_ga"]:
            widest, need, limit = min(module.in_features, module.out_features), 2 * rank, "half of its smaller side"
        elif chosen is INITIALISATIONS["eva"]:
            need, limit = round(rank * spread), f"{widest} / rho, with eva_config.rho={spread:g}"
        elif decomposes:
            widest, need, limit = min(module.in_features, module.out_features), rank, "its smaller side"
        else:
            return
        if need > widest:
            raise ValueError(
                f"init_lora_weights={start} finds at most {limit} directions in {module.leaf} "
                f"({module.out_features} × {module.in_features}), fewer than r={rank} needs"
            )


def _option(settings: Settings, name: str, key: str) -> Any:
    """An option of an initialisation: as set, else PEFT's default."""
    about = INITIALISATIONS[name]
    return value_of(about.config_class, settings.get(about.config) or {}, key)


def is_spread(settings: Settings) -> bool:
    """Whether the ranks of single layers are known only when the rows were looked at, as with EVA."""
    return rank_spread(settings) > 1


def rank_spread(settings: Settings) -> float:
    """How many times the rank one layer may get: EVA's rho; 1 for every other."""
    return float(_option(settings, "eva", "rho")) if initialisation(settings) is INITIALISATIONS["eva"] else 1.0


def extra_bytes(settings: Settings, adapted: Sequence[tuple[Module, int]], weight_bytes: float) -> tuple[float, bool]:
    """Bytes that looking at the rows holds at once, and whether a backward pass runs meanwhile.

    LoRA-GA holds a gradient of every adapted weight, in the weights' own type; CorDA a float32 covariance of each
    layer's inputs, n² for n of them; EVA the components found so far, r·rho of them in float32.
    """
    chosen, linear = initialisation(settings), [(m, r) for m, r in adapted if m.kind == "linear"]
    if chosen.looks_at == GRADIENTS:
        return weight_bytes * sum(m.in_features * m.out_features * m.num_stacked for m, _ in linear), True
    if chosen is INITIALISATIONS["corda"]:
        return 4.0 * sum(m.in_features**2 for m, _ in linear), False
    if chosen is INITIALISATIONS["eva"]:
        return 4.0 * sum(round(r * rank_spread(settings)) * m.in_features for m, r in linear), False
    return 0.0, False
