"""What a config.json of transformers 5 is called for programs that read those of transformers 4.

transformers 5 writes the base of rotary positions into `rope_parameters`. MLX, and whatever stands on transformers 4,
reads `rope_theta` and `rope_scaling`: without them it takes a base of 10,000 and answers otherwise without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftcli.core.untrusted import foreign_files

_WHOLE, _NEAR = "full_attention", "sliding_attention"


def with_former_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that says the same under both names; what it says already stays."""
    found = dict(config)
    if isinstance(text := config.get("text_config"), dict):
        found["text_config"] = with_former_names(text)
    rotary = config.get("rope_parameters")
    if not isinstance(rotary, dict):
        return found
    whole = rotary.get(_WHOLE, rotary)
    if isinstance(near := rotary.get(_NEAR), dict):
        found.setdefault("rope_local_base_freq", near.get("rope_theta"))
    if not isinstance(whole, dict) or "rope_theta" not in whole:
        return found
    found.setdefault("rope_theta", whole["rope_theta"])
    if "partial_rotary_factor" in whole:
        found.setdefault("partial_rotary_factor", whole["partial_rotary_factor"])
    if whole.get("rope_type", "default") != "default":
        found.setdefault("rope_scaling", {key: value for key, value in whole.items() if key != "rope_theta"})
    return found


def add_former_names(folder: Path) -> None:
    """Say them in the config.json of a folder that is being written."""
    file = folder / "config.json"
    try:
        config = foreign_files.read_json(file)
    except (OSError, ValueError):
        return  # an adapter has none; what is wrong with another's is said where it is read
    if isinstance(config, dict) and (changed := with_former_names(config)) != config:
        file.write_text(json.dumps(changed, indent=2, sort_keys=True) + "\n", encoding="utf-8")
