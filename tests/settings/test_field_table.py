"""The table of fields is whole: every field of every trainer config has a row, and every row a field."""

from __future__ import annotations

import inspect
import re

import pytest
from transformers import optimization, trainer_optimizer
from transformers.training_args import OptimizerNames

from ftcli.build.checks import mappings
from ftcli.build.checks.field_checks import choices_of
from ftcli.build.checks.field_needs import split
from ftcli.build.checks.trainer_rules import metrics_of
from ftcli.cli.arguments import GRANTS
from ftcli.config.group_fields import method_fields
from ftcli.methods import all_methods
from ftcli.settings import library_fields
from ftcli.settings.fields.field_row import FieldRow, Source
from ftcli.settings.fields.field_table import ADAPTERS, FIELDS, OWN, row_of
from ftcli.settings.library_fields import TRAINING_ARGUMENTS, Field, fields_of
from ftcli.settings.library_values import dispatch, imported_by, keys_read, parameters, values_of
from ftcli.settings.limits import LIMITS

SHARED = set(fields_of(TRAINING_ARGUMENTS))
CONFIGS = {TRAINING_ARGUMENTS: "train"} | {method.config: "method" for method in all_methods().values()}


def installed() -> dict[str, tuple[Field, FieldRow | None]]:
    """Every field of every trainer config as `CONFIG GROUP.FIELD`, with its row."""
    found = {}
    for config, group in CONFIGS.items():
        for field in fields_of(config).values():
            if group == "train" or field.name not in SHARED:
                found[f"{config} {group}.{field.name}"] = field, row_of(f"{group}.{field.name}", field)
    return found


def test_every_field_of_every_installed_config_has_a_row():
    """An upgrade that brings a field fails here: say who reads it, which words it takes and what it reaches."""
    assert [name for name, (_, row) in installed().items() if row is None] == []


def test_every_row_is_of_a_field_that_some_config_has():
    used = set()
    for name, (field, _) in installed().items():
        plain = name.split(" ")[1]
        used.add(f"{plain}@{field.owner}" if f"{plain}@{field.owner}" in FIELDS else plain)
    assert set(FIELDS) - used - set(ADAPTERS) - set(OWN) == set()


def test_every_text_has_its_words_or_a_reason_why_it_is_free():
    for name, (field, row) in installed().items():
        assert row is not None
        settled = row.owner or row.refused or row.free or row.inside
        if not settled and re.search(r"\bstr\b", field.type_text):
            assert choices_of(field, None, row), name


def test_every_mapping_is_checked_inside_or_says_where():
    for name, (field, row) in installed().items():
        assert row is not None
        if re.search(r"\bdict\b", field.type_text) and not (row.owner or row.refused):
            assert row.inside in mappings.RULES or row.inside == "schedule" or " " in row.inside, name


def test_no_row_says_two_things():
    for name, row in FIELDS.items():
        assert bool(row.owner) + bool(row.refused) <= 1, name
        if row.owner or row.refused:
            assert not any((row.choices, row.free, row.inside, row.needs, row.grant)), name


def test_every_condition_names_a_setting_that_its_readers_have():
    for name, (_field, row) in installed().items():
        assert row is not None
        for condition in row.needs:
            setting = split(condition)[0]
            group, _, key = setting.partition(".")
            config = next(text for text in CONFIGS if name.startswith(f"{text} "))
            if group == "method" and config != TRAINING_ARGUMENTS:
                assert key in fields_of(config), f"{name} needs {setting}"
            elif group == "train":
                assert key in SHARED, f"{name} needs {setting}"


def test_every_grant_is_a_flag():
    assert {row.grant for row in FIELDS.values() if row.grant} <= set(GRANTS)


def test_what_runs_code_or_publishes_needs_a_flag_where_it_is_a_switch_of_its_own():
    for name in ("method.reward_functions", "method.log_completions_hub_repo", "train.push_to_hub"):
        assert FIELDS[name].grant


@pytest.mark.parametrize("name", [name for name, row in FIELDS.items() if isinstance(row.choices, Source)])
def test_words_read_from_source_are_there(name):
    words = values_of(FIELDS[name].choices)
    assert len(words) >= 2
    plain, _, owner = name.partition("@")
    for text, (field, _row) in installed().items():
        if text.endswith(f" {plain}") and owner in ("", field.owner):
            default = library_fields.value_of(text.split(" ")[0], {}, field.name)
            listed = default if isinstance(default, list) else [default] if default else []
            assert set(listed) <= set(words), "a default is one of the words, if the right ones were found"


def test_the_optimisers_and_their_packages_are_those_of_the_installed_trainer():
    module = "transformers.trainer_optimizer"
    handlers = dispatch(module, "_OPTIMIZER_HANDLERS", "OptimizerNames")
    real = {
        OptimizerNames(name).value: handler.__name__ for name, handler in trainer_optimizer._OPTIMIZER_HANDLERS.items()
    }
    assert handlers == real
    assert imported_by(module, handlers["galore_adamw"]) == ("galore_torch",)
    assert imported_by(module, handlers["adamw_8bit"]) == ("bitsandbytes",)
    assert set(keys_read(module, handlers["sgd"], "optim_args")) == {
        "momentum",
        "dampening",
        "weight_decay",
        "nesterov",
    }


def test_the_schedules_and_their_arguments_are_those_of_the_installed_library():
    handlers = dispatch("transformers.optimization", "TYPE_TO_SCHEDULER_FUNCTION", "SchedulerType")
    assert handlers == {kind.value: made.__name__ for kind, made in optimization.TYPE_TO_SCHEDULER_FUNCTION.items()}
    for name in handlers.values():
        signature = inspect.signature(getattr(optimization, name)).parameters
        named = {key for key, each in signature.items() if each.kind is not inspect.Parameter.VAR_KEYWORD}
        assert set(parameters("transformers.optimization", name)) == named
        needed = {key for key in named if signature[key].default is inspect.Parameter.empty}
        assert {k for k, each in parameters("transformers.optimization", name).items() if each.required} == needed


def test_every_method_reports_metrics():
    found = {name: metrics_of(method) for name, method in all_methods().items()}
    assert all(found.values())
    assert "rewards/accuracies" in found["dpo"]
    assert "mean_token_accuracy" in found["sft"]
    assert "reward" in found["grpo"]
    assert "nonsense" not in found["sft"]


def test_no_method_repeats_the_words_of_the_table():
    for method in all_methods().values():
        for key, limit in method.limits.items():
            row = row_of(f"method.{key}", method_fields(method)[key])
            assert row is None or not (limit.choices and row.choices), (method.name, key)


# Weights of either sign, and what follows from them.
UNBOUNDED = {
    "loss_weights", "reward_model_weight", "judge_weight", "reward_functions", "missing_eos_penalty",
    "reward_clip_range",
}  # fmt: skip


def test_every_number_has_bounds_or_may_be_any():
    for method in all_methods().values():
        free = set()
        for group, fields in (("train", fields_of(TRAINING_ARGUMENTS)), ("method", method_fields(method))):
            for name, field in fields.items():
                row = row_of(f"{group}.{name}", field)
                if row is None or row.owner or row.refused or not re.search(r"\b(int|float)\b", field.type_text):
                    continue
                own = method.limit_of(name) if group == "method" else LIMITS.get(f"train.{name}")
                free |= {name} if own is None else set()
        assert free <= UNBOUNDED, method.name
