"""What LoRA can start from: every word that the installed PEFT reads is sorted, and checked before anything loads."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.models.known_shapes import model_shape
from ftcli.models.modules import modules
from ftcli.peft_methods import PEFT_METHODS
from ftcli.peft_methods.initialisations import INITIALISATIONS
from ftcli.settings.groups import ModelSettings
from ftcli.settings.library_fields import fields_of, options

LORA = PEFT_METHODS["lora"]
MATRICES = 4 * 7  # four layers with seven linear modules each


def problems(*words: str) -> list[str]:
    try:
        spec_of(Request(overrides=("model=tiny", "hardware=cpu", *words)))
    except ConfigError as error:
        return [f"{each.where}  {each.what}  fix: {each.fix}" for each in error.problems]
    return []


def compared(node: ast.AST) -> set[str]:
    """Words that a module compares `init_lora_weights` with: `== "x"`, `in ("x", …)` and `.startswith("x")`."""
    found: set[str] = set()

    def is_start(part: ast.AST) -> bool:
        return any(
            "init_lora_weights" in (getattr(each, "id", ""), getattr(each, "attr", "")) for each in ast.walk(part)
        )

    for each in ast.walk(node):
        parts: list[ast.AST] = []
        if isinstance(each, ast.Compare) and is_start(each.left):
            parts = list(each.comparators)
        elif isinstance(each, ast.Call) and getattr(each.func, "attr", "") == "startswith" and is_start(each.func):
            parts = list(each.args)
        found |= {
            str(leaf.value)
            for part in parts
            for leaf in ast.walk(part)
            if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
        }
    return found


def test_every_initialisation_that_peft_names_or_compares_with_is_sorted():
    field = fields_of("peft.tuners.lora.config:LoraConfig")["init_lora_weights"]
    assert set(options(field)) <= set(INITIALISATIONS)
    spec = importlib.util.find_spec("peft")
    assert spec is not None
    assert spec.origin is not None
    read: set[str] = set()
    for name in ("layer", "config", "model", "eva", "corda", "loraga"):
        source = (Path(spec.origin).parent / f"tuners/lora/{name}.py").read_text(encoding="utf-8")
        read |= compared(ast.parse(source))
    known = {name.partition("_niter")[0] for name in INITIALISATIONS}
    assert {"pissa", "corda", "olora", "mica", "loftq", "eva", "orthogonal", "lora_ga"} <= read <= known


def test_every_initialisation_says_what_it_is_and_is_taken_or_refused_for_a_reason():
    for name, each in INITIALISATIONS.items():
        assert each.summary
        word = name.replace("[number of iters]", "4")
        quantisation = "quantisation=nf4" if name == "loftq" else "quantisation=none"
        assert problems("peft=lora", f"peft.init_lora_weights={word}", quantisation) == [], name
        for kind in ("int8", "nf4"):
            found = problems("peft=lora", f"peft.init_lora_weights={word}", f"quantisation={kind}")
            assert bool(found) == bool(each.unquantised or (name == "loftq" and kind == "int8")), (name, kind)


@pytest.mark.parametrize("name", [name for name, each in INITIALISATIONS.items() if each.config])
def test_the_options_of_an_initialisation_are_those_that_peft_has(name):
    each = INITIALISATIONS[name]
    known = set(fields_of(each.config_class))
    assert set(each.owned) | set(each.bounds) <= known
    quantisation = "quantisation=nf4" if name == "loftq" else "quantisation=none"
    start = ("peft=lora", f"peft.init_lora_weights={name}", quantisation)
    (found,) = problems(*start, f"peft.{each.config}={{nonsense:1}}")
    assert f"peft.{each.config} has no entry nonsense" in found
    for key in each.owned:
        (found,) = problems(*start, f"peft.{each.config}={{{key}:1}}")
        assert f"peft.{each.config}.{key}" in found
    (found,) = problems("peft=lora", f"peft.{each.config}={{{sorted(known)[0]}:1}}")
    assert f"peft.{each.config} has no effect" in found
    assert f"add peft.init_lora_weights={name}" in found


REFUSED = [
    (("peft.init_lora_weights=eva", "peft.eva_config={rho:0.5}"), "eva_config.rho=0.5 is out of range"),
    (("peft.init_lora_weights=eva", "peft.eva_config={tau:1.5}"), "give at least 0 and at most 1"),
    (("peft.init_lora_weights=corda", "peft.corda_config={corda_method:best}"), "choose from ipm, kpm"),
    (("peft.init_lora_weights=lora_ga", "peft.lora_ga_config={scale:huge}"), "choose from stable, weight_svd"),
    (("peft.init_lora_weights=loftq",), "starts from what a 4-bit quantisation of the run leaves out"),
    (("peft.init_rows=4",), "peft.init_rows has no effect"),
    (("peft.init_lora_weights=eva", "peft.init_rows=0"), "peft.init_rows=0 is out of range"),
    (("peft.init_lora_weights=eva", "method=grpo"), "samples its answers during it"),
    (("peft.init_lora_weights=mica", "peft.use_dora=true"), "cannot be combined with peft.use_dora"),
    # The built-in model is 160 wide, its keys 160 as well, and its feed-forward 432.
    (("peft.init_lora_weights=pissa", "peft.r=200"), "at most its smaller side directions in"),
    (("peft.init_lora_weights=lora_ga", "peft.r=100"), "at most half of its smaller side directions in"),
    (("peft.init_lora_weights=eva", "peft.r=100"), "with eva_config.rho=2"),
    (("peft=loraplus", "peft.init_lora_weights=mica"), "mica is not a value of peft.init_lora_weights"),
    (("peft.init_lora_weights=lora_g",), "did you mean peft.init_lora_weights=lora_ga"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_start_is_refused_at_once(words, expected):
    (found,) = problems(*(() if words[0] == "peft=loraplus" else ("peft=lora",)), *words)
    assert expected in found


def started(**settings: Any) -> tuple[float, bool]:
    shape = model_shape(ModelSettings(name_or_path="builtin:tiny"))
    assert shape is not None
    return LORA.start_bytes(shape, {"r": 16, "target_modules": "all-linear", **settings}, 2.0)


def test_what_looking_at_rows_takes_is_counted():
    shape = model_shape(ModelSettings(name_or_path="builtin:tiny"))
    assert shape is not None
    linear = [each for each in modules(shape) if each.kind == "linear" and not each.head]
    assert len(linear) == MATRICES
    # A gradient of every weight in bf16, while a backward pass runs.
    weights = sum(each.in_features * each.out_features for each in linear)
    assert started(init_lora_weights="lora_ga") == (2 * weights, True)
    # A float32 covariance of each layer's inputs: six layers 160 wide and one of 432, four times.
    assert started(init_lora_weights="corda") == (4 * 4 * (6 * 160**2 + 432**2), False)
    # 32 directions of each.
    assert started(init_lora_weights="eva") == (4 * 4 * 32 * (6 * 160 + 432), False)
    assert started(init_lora_weights="pissa") == (0.0, False)


def test_eva_spreads_its_ranks_so_that_only_a_bound_is_known_before_it():
    shape = model_shape(ModelSettings(name_or_path="builtin:tiny"))
    assert shape is not None
    plain = {"r": 16, "target_modules": "all-linear"}
    known = LORA.count(shape, plain)
    assert known is not None
    assert LORA.count(shape, {**plain, "init_lora_weights": "eva"}) is None
    assert LORA.at_most(shape, {**plain, "init_lora_weights": "eva"}) == 2 * known
    same = {**plain, "init_lora_weights": "eva", "eva_config": {"rho": 1.0}}
    assert LORA.count(shape, same) == known
