"""The shape of a run's model: from its folder, its group file, the hub cache or a shipped choice.

For an architecture in no table it holds what a worker measured, if one has; nothing here waits for a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ftcli.core import assets, hub_cache
from ftcli.core.errors import ConfigError
from ftcli.core.strict_yaml import load
from ftcli.core.untrusted import foreign_files
from ftcli.models import measured_layouts, sources
from ftcli.models.causal_names import why_not_causal
from ftcli.models.families import FAMILIES
from ftcli.models.layout import Layout
from ftcli.models.read_config import shape_from_folder, shape_from_layout, shape_from_mapping
from ftcli.models.shape import Shape
from ftcli.settings.groups import CARD, ModelSettings


class _Place(NamedTuple):
    """Where the architecture is described: a folder with a config.json, or the `shape` of a group file."""

    folder: Path | None = None
    raw: Mapping[str, Any] | None = None


def model_shape(model: ModelSettings) -> Shape | None:
    """The architecture with the rows of new tokens, of this run and of the adapters that it starts from: from the local
    folder, else its group file, else the hub cache, else a shipped group file."""
    shape, source = _stored_shape(model), sources.model_source(model.name_or_path)
    if shape is not None and source is not None and source.is_adapter:
        shape = replace(shape, vocab_size=max(shape.vocab_size, sources.rows_of_adapters(source)))
    if shape is None or not model.new_tokens:
        return shape
    # Rows that the vocabulary does not use yet are taken first.
    used = _num_tokens(tokenizer_folder(model)) or shape.vocab_size
    return replace(shape, vocab_size=max(shape.vocab_size, used + len(model.new_tokens)))


def _stored_shape(model: ModelSettings) -> Shape | None:
    place = _place(model)
    if place is None:
        return None
    shape = shape_from_folder(place.folder) if place.folder else shape_from_mapping(place.raw or {})
    if shape is not None and shape.known:
        return shape
    config = _config(place)
    layout = measured_layouts.kept(config) if config else None
    return shape_from_layout(layout, config, shape) if isinstance(layout, Layout) and config else shape


def tokenizer_folder(model: ModelSettings) -> Path | None:
    """The local folder with the model's tokenizer files, or None."""
    source = sources.model_source(model.name_or_path)
    if source is None or source.folder is not None:
        return source.folder if source else None
    return hub_cache.cached_snapshot(str(source.hub_id), model.revision)


def _num_tokens(folder: Path | None) -> int | None:
    """The size of a tokenizer's vocabulary; None where it cannot be read."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        return None
    from tokenizers import Tokenizer

    try:
        return int(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size())
    except Exception:  # the library raises plain Exception; the check of the data reports the file
        return None


def unmeasured(model: ModelSettings) -> Mapping[str, Any] | None:
    """The configuration of an architecture that is in no table and that nobody has measured; None for any other."""
    try:
        place = _place(model)
        shape = model_shape(model)
    except ConfigError:  # reported by the checks
        return None
    if place is None or (shape is not None and shape.known):
        return None
    config = _config(place)
    return config if config and measured_layouts.kept(config) is None else None


def why_unmeasured(model: ModelSettings) -> str | None:
    """Why a worker could not measure the architecture; None where it could, or was not asked."""
    try:
        place = _place(model)
    except ConfigError:
        return None
    config = _config(place) if place else None
    reason = measured_layouts.kept(config) if config and str(config.get("model_type")) not in FAMILIES else None
    return reason if isinstance(reason, str) else None


def why_no_causal_lm(model: ModelSettings) -> str | None:
    """Why the installed transformers has no causal LM for a model's config.json; None where it has, or none is here."""
    try:
        place = _place(model)
    except ConfigError:  # reported by the checks
        return None
    config = _config(place) if place and place.folder else None
    return why_not_causal(dict(config)) if config else None


def _place(model: ModelSettings) -> _Place | None:
    source = sources.model_source(model.name_or_path)
    bottom = sources.foundation(source) if source else None
    if bottom is None:
        return None
    if bottom.folder is not None:
        return _Place(folder=bottom.folder)
    if model.shape is not None:
        return _Place(raw=model.shape)
    cached = hub_cache.cached_snapshot(str(bottom.hub_id), model.revision)
    if cached is not None:
        return _Place(folder=cached)
    raw = published_shape(str(bottom.hub_id))
    return _Place(raw=raw) if raw else None


def _config(place: _Place) -> Mapping[str, Any] | None:
    """The configuration that a worker builds the model from; None where it needs code that comes with the model."""
    if place.folder is None:
        return flat_config(place.raw or {})
    try:
        config = foreign_files.read_json(place.folder / "config.json")
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and config.get("model_type") else None


def flat_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration class from the `shape` of a group file."""
    nested = [raw.get("experts") or {}, raw.get("latent_attention") or {}, raw.get("more") or {}]
    own = ("architecture", "experts", "latent_attention", "more", "num_parameters")
    flat = {key: value for key, value in raw.items() if key not in own}
    for group in nested:
        flat.update(group)
    return flat


def published_shape(hub_id: str) -> dict[str, Any] | None:
    """The shape that a shipped group file gives for a hub id."""
    shape: dict[str, Any] | None = published_card(hub_id).get("shape")
    return shape


def published_card(hub_id: str) -> dict[str, Any]:
    """What a shipped group file says of the model of a hub id, by the settings of `CARD`; {} if none names it."""
    for path in assets.choices("model").values():
        if f"name_or_path: {hub_id}\n" in path.read_text(encoding="utf-8"):
            said = load(path).data
            return {key: said.get(key) for key in CARD}
    return {}
