"""Fields read from source are those that the installed libraries really have."""

from __future__ import annotations

import dataclasses
import importlib
import math

import pytest

from ftcli.config.group_fields import method_fields
from ftcli.methods import all_methods
from ftcli.peft_methods import PEFT_METHODS
from ftcli.peft_methods.other import tuner_configs
from ftcli.settings import library_fields, limits
from ftcli.settings.fields import field_table
from ftcli.settings.groups import OWN_GROUPS


def declared() -> list[str]:
    """Every `module:Class` string of the house."""
    methods = [text for method in all_methods().values() for text in (method.trainer, method.config)]
    return [*methods, *(peft.config for peft in PEFT_METHODS.values()), library_fields.TRAINING_ARGUMENTS]


@pytest.mark.parametrize("text", sorted(set(declared())))
def test_every_declared_class_exists_in_the_installed_library(text):
    module, _, name = text.partition(":")
    assert isinstance(getattr(importlib.import_module(module), name), type)


@pytest.mark.parametrize("text", sorted({t for t in declared() if "Trainer" not in t}))
def test_fields_read_from_source_equal_the_imported_dataclass(text):
    module, _, name = text.partition(":")
    imported = {
        field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name)) if field.init
    }
    assert imported <= set(library_fields.fields_of(text))
    extra = set(library_fields.fields_of(text)) - imported
    # Some fields of the base are declared init=False by a subclass; nothing else may differ.
    everything = {field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name))}
    assert extra <= everything


def test_enumerations_equal_the_imported_ones():
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    assert set(library_fields.enum_values("OptimizerNames")) == {entry.value for entry in OptimizerNames}
    assert set(library_fields.enum_values("SchedulerType")) == {entry.value for entry in SchedulerType}


def test_every_rule_names_a_field_that_exists():
    shared = set(library_fields.fields_of(library_fields.TRAINING_ARGUMENTS))
    own = {f"{group}.{field.name}" for group, kind in OWN_GROUPS.items() for field in dataclasses.fields(kind)}
    known = own | {f"train.{name}" for name in shared} | {"seed"}
    known |= {f"method.{name}" for method in all_methods().values() for name in library_fields.fields_of(method.config)}
    known |= {f"peft.{name}" for peft in PEFT_METHODS.values() for name in peft.fields()}
    known |= {f"peft.{name}" for config in tuner_configs().values() for name in library_fields.fields_of(config)}
    # Fields that only some supported versions of transformers have.
    versions = {"train.enable_jit_checkpoint"}
    for table in (field_table.OWNERS, field_table.REFUSED, field_table.GRANTED_BY, limits.LIMITS):
        assert {name.partition("@")[0] for name in table} - known - versions == set()
    assert known >= field_table.LIBRARY_PATHS


def test_limits_of_methods_and_adapters_name_their_fields():
    for method in all_methods().values():
        assert set(method.limits) <= set(method_fields(method))
        assert set(method.defaults) <= set(method_fields(method))
    for peft in PEFT_METHODS.values():
        assert set(peft.limits) | set(peft.defaults) | set(peft.owned) | set(peft.fixed) <= set(peft.fields())


def test_no_dropout_may_drop_everything():
    declared = [(each.name, each.limits) for each in (*all_methods().values(), *PEFT_METHODS.values())]
    for name, own in [*declared, ("train", limits.LIMITS)]:
        for key, limit in own.items():
            if "dropout" in key:
                assert (limit.high, limit.open_high) == (1, True), (name, key)


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [1, -1], [1.0, True, "1", None]),
        ("float", [1, 1.5, math.inf], [True, "1.5"]),
        ("bool", [True], [1, "true", "no"]),
        ("str | None", ["x", None], [1]),
        ("Optional[Union[list[str], str]]", [["a"], "a", None], [1, [1]]),
        ("Literal['none', 'all']", ["none"], ["some", None]),
        ("dict[str, Any] | str | None", [{"a": 1}, None], [[1]]),
        ("tuple[int, int]", [[1, 2]], [[1], [1, "2"]]),
        ("OptimizerNames", ["adamw_torch"], ["adamw_torhc"]),
    ],
)
def test_values_are_held_against_annotations(annotation, good, bad):
    import ast

    tree = ast.parse(annotation, mode="eval").body
    assert all(library_fields.accepts(tree, value) for value in good)
    assert not any(library_fields.accepts(tree, value) for value in bad)


def test_an_option_that_needs_no_value_takes_true():
    field = library_fields.fields_of(library_fields.TRAINING_ARGUMENTS)[
        "fsdp"
    ]  # annotated `str | None`, and meant to be true
    assert all(library_fields.accepts(field.annotation, value) for value in (True, "full_shard", None))
    assert not library_fields.accepts(field.annotation, 1)
