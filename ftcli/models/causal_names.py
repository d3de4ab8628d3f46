"""Which model types transformers has a causal language model for, read from its source without importing it."""

from __future__ import annotations

import ast
from functools import cache

from ftcli.settings.library_fields import source_text

_MAPPING = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"


@cache
def causal_names() -> dict[str, str]:
    """model_type → class name, as the installed transformers maps them; {} where its source does not say."""
    try:
        text = source_text("transformers.models.auto.modeling_auto")
    except (ModuleNotFoundError, OSError):
        return {}
    start = text.find(f"\n{_MAPPING} ")
    # Only this assignment is parsed: the whole module takes ten times as long.
    end = text.find("\n)", start)
    if start < 0 or end < 0:
        return {}
    try:
        (assigned,) = ast.parse(text[start : end + 2]).body
        value = getattr(assigned, "value", None)
        return dict(ast.literal_eval(value.args[0])) if isinstance(value, ast.Call) else {}
    except (SyntaxError, ValueError, IndexError):
        return {}


def why_not_causal(config: dict[str, object]) -> str | None:
    """Why no causal LM can be built from a config.json; None where one can, or where the source does not say.

    A multimodal checkpoint is taken as the text model inside it, where there is one.
    """
    names, own = causal_names(), config.get("model_type")
    text = config.get("text_config")
    inner = text.get("model_type") if isinstance(text, dict) else None
    if not names or not isinstance(own, str) or config.get("auto_map") or inner in names:
        return None
    if own in names and isinstance(inner, str):  # emu3 and mllama: their text model has a type that no class is for
        return f"the text model of model_type={own} would be saved as {inner}, which transformers cannot load again"
    if own in names:
        return None
    inside = f", nor for its text model ({inner})" if inner else ""
    return f"the installed transformers has no causal language model for model_type={own}{inside}"
