"""What the shipped choices of `model` say of their models: base or instruct, licence, chat template."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core import assets
from ftcli.models.known_shapes import model_shape, published_card
from ftcli.models.parameters import active_parameters, num_parameters, operations_per_token
from ftcli.settings.groups import CARD, ModelSettings

CHOICES: dict[str, dict[str, Any]] = {
    name: yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, path in assets.choices("model").items()
    if name != "tiny"
}
ACTIVE = {
    name: float(said[1])
    for name, path in assets.choices("model").items()
    if (said := re.search(r"([\d.]+)B active", assets.first_comment(path)))
}
"""Billions of parameters that a token visits, as the maker of a mixture of experts says."""


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_says_which_variant_it_is_and_under_which_licence(name: str) -> None:
    said = CHOICES[name]
    assert said["variant"] == ("base" if name.endswith("-base") else "instruct")
    assert said["licence"]
    assert said["thinking"] in (True, False)
    if said["variant"] == "instruct":
        assert said["has_template"] is True


def test_a_short_name_is_the_instruct_model_and_no_two_choices_are_one_model() -> None:
    bases = [name for name in CHOICES if name.endswith("-base")]
    assert {name.removesuffix("-base") for name in bases} <= CHOICES.keys()
    assert {"llama-base", "mistral-base", "gemma-base", "qwen-base", "smollm-base"} <= set(bases)
    ids = [said["name_or_path"] for said in CHOICES.values()]
    assert len(ids) == len(set(ids))


def test_a_model_has_the_parameters_of_its_base() -> None:
    for name, said in CHOICES.items():
        if name.endswith("-base"):
            own, instruct = dict(said["shape"]), dict(CHOICES[name.removesuffix("-base")]["shape"])
            assert {**own, "max_position_embeddings": 0} == {**instruct, "max_position_embeddings": 0}


def test_what_a_file_says_of_its_model_is_not_said_of_another_one(here) -> None:
    words = ("method=pretrain", "model=llama-base")  # a base renders no conversations
    assert spec_of(Request(overrides=words)).model.variant == "base"
    other = spec_of(Request(overrides=(*words, "model.name_or_path=org/other"))).model
    assert [getattr(other, key) for key in CARD] == [None] * len(CARD)


def test_a_hub_id_finds_what_its_choice_says() -> None:
    assert published_card("google/gemma-2-2b")["has_template"] is False
    assert published_card("google/gemma-2-2b-it")["variant"] == "instruct"
    assert published_card("org/other") == {}


@pytest.mark.parametrize("name", ACTIVE)
def test_a_token_is_multiplied_with_the_parameters_that_a_maker_calls_active(name: str) -> None:
    shape = model_shape(ModelSettings(name_or_path=CHOICES[name]["name_or_path"]))
    assert shape is not None
    assert operations_per_token(shape, base_trains=True) == pytest.approx(6e9 * ACTIVE[name], rel=0.1)
    assert operations_per_token(shape, base_trains=False) == pytest.approx(4e9 * ACTIVE[name], rel=0.1)


def test_what_a_token_is_multiplied_with_leaves_out_rows_that_are_looked_up() -> None:
    tied, untied = (model_shape(ModelSettings(name_or_path=name)) for name in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B"))
    assert tied is not None
    assert untied is not None
    assert active_parameters(tied) == num_parameters(tied)
    assert active_parameters(untied) == num_parameters(untied) - 151936 * 4096  # type: ignore[operator]
