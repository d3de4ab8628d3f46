"""The shape of a run's model: from its folder, its group file, the hub cache or a shipped choice."""

from __future__ import annotations

from typing import Any

from ftcli.core import assets, hub_cache
from ftcli.core.strict_yaml import load
from ftcli.models import sources
from ftcli.models.read_config import shape_from_folder, shape_from_mapping
from ftcli.models.shape import Shape
from ftcli.settings.groups import CARD, ModelSettings


def model_shape(model: ModelSettings) -> Shape | None:
    """The architecture: from the local folder, else its group file, else the hub cache, else a shipped group file."""
    source = sources.model_source(model.name_or_path)
    bottom = sources.foundation(source) if source else None
    if bottom is None:
        return None
    if bottom.folder is not None:
        return shape_from_folder(bottom.folder)
    if model.shape is not None:
        return shape_from_mapping(model.shape)
    cached = hub_cache.cached_snapshot(str(bottom.hub_id), model.revision)
    if cached is not None:
        return shape_from_folder(cached)
    raw = published_shape(str(bottom.hub_id))
    return shape_from_mapping(raw) if raw else None


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
