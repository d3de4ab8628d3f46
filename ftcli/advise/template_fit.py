"""Whether a model's chat template writes what the rows hold: the calls of tools, and reasoning before an answer.

A run refuses a row of which the template leaves out what is to be trained, so a way with such a template would not
train.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.advise.data_look import DataLook
from ftcli.core.errors import ConfigError
from ftcli.models.known_shapes import tokenizer_folder
from ftcli.models.templates.chat_template import model_template, named_template, named_templates
from ftcli.models.templates.template_rendering import TemplateRejection, renderer
from ftcli.settings.groups import ModelSettings

OTHERS = ("qwen3", "qwen2_5")
"""Templates that are tried in place of one that leaves something out, the one that writes most first."""
_CALL, _WHY = "ftcli_probe_function", "ftcli-probe-reasoning"
_ASKED = {"role": "user", "content": "Question?"}
_PROBES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "tool calls": (
        _CALL,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": _CALL, "arguments": {"x": 1}}}],
        },
    ),
    "reasoning": (_WHY, {"role": "assistant", "content": "Answer.", "reasoning_content": _WHY}),
}
"""What a template may leave out → a word, and the turn that it should be written in."""


def left_out(template: str, folder: Path | None, look: DataLook) -> tuple[str, ...]:
    """What the rows hold and a template does not write."""
    return tuple(name for name in _held(look) if not _writes(template, folder, name))


def _held(look: DataLook) -> Iterator[str]:
    if look.calls:
        yield "tool calls"
    if look.thoughts:
        yield "reasoning"


def _writes(template: str, folder: Path | None, name: str) -> bool:
    word, turn = _PROBES[name]
    try:
        return word in renderer(template, folder)([_ASKED, turn], None)
    except (TemplateRejection, ConfigError):
        return False


def template_of(model: ModelSettings | None, family: str) -> tuple[str | None, Path | None]:
    """The chat template of a model and the folder of its tokenizer, as far as they are here.

    Args:
        model: the one that the user named; None is one of the sizes that are advised.
        family: the template of those, among the ones that TRL ships.
    """
    if model is None:
        return (named_template(family) if family in named_templates() else None), None
    folder = tokenizer_folder(model)
    return model_template(model, folder), folder


def another(folder: Path | None, look: DataLook) -> str | None:
    """The name of a template that writes all that the rows hold; None if there is none.

    Whether the model has its tokens is a check of the recipe.
    """
    known = (name for name in OTHERS if name in named_templates())
    return next((name for name in known if not left_out(named_template(name), folder, look)), None)
