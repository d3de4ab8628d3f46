"""The chat template of an Ollama Modelfile: Go's, where the model's own is jinja.

A table of families, each a Go template with blanks. A trained template gets one of them only if both write the same
text for every conversation of `compared_conversations`, tried on the template itself and not by its name; else there is
none, and llama.cpp's server, which reads the jinja, is named instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcli.models.export import go_template
from ftcli.models.export.compared_conversations import CONVERSATIONS
from ftcli.models.export.converter_input import begins_with_bos
from ftcli.models.templates.chat_template import chat_template, special_tokens
from ftcli.models.templates.template_rendering import Render, TemplateRejection, renderer

_CHATML = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
FAMILIES: Mapping[str, str] = {
    "chatml": _CHATML,
    "chatml with a system turn of its own": (
        "{{ if not .System }}<|im_start|>system\n{{ DEFAULT }}<|im_end|>\n{{ end }}" + _CHATML
    ),
    "llama 3": (
        "{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "gemma": (
        '{{ range $i, $m := .Messages }}{{ if ne .Role "system" }}<start_of_turn>'
        '{{ if eq .Role "assistant" }}model{{ else }}user{{ end }}\n'
        "{{ if and $.System (eq $i 1) }}{{ $.System }}\n\n{{ end }}{{ .Content }}<end_of_turn>\n{{ end }}{{ end }}"
        "<start_of_turn>model\n"
    ),
    "a role in bars": "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}{{ END }}\n{{ end }}<|assistant|>\n",
    "a role in bars, answers ended": (
        '{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}{{ if eq .Role "assistant" }}{{ END }}{{ end }}\n{{ end }}'
        "<|assistant|>\n"
    ),
    "phi 4": (
        "{{ range .Messages }}<|im_start|>{{ .Role }}<|im_sep|>{{ .Content }}<|im_end|>{{ end }}"
        "<|im_start|>assistant<|im_sep|>"
    ),
}
"""Names for people to the templates. DEFAULT stands for the system's turn that the jinja template writes where a
conversation has none, END for a token that ends answers."""
_LEAST = 3
"""Conversations that the jinja template must render, the others it may reject."""


@dataclass(frozen=True)
class GoTemplate:
    """The Go template of a model."""

    family: str
    text: str
    compared: int
    """On how many conversations it wrote what the model's own template wrote."""


def go_template_of(tokenizer: Path, ends: Sequence[str]) -> GoTemplate | None:
    """The Go template that writes what a tokenizer's jinja template writes; None where no family's does.

    The BOS token is left to the server, which adds it.

    Args:
        ends: the tokens that end answers.
    """
    jinja = chat_template(tokenizer)
    if jinja is None:
        return None
    render = renderer(jinja, tokenizer)
    bos = special_tokens(tokenizer).get("bos_token", "") if begins_with_bos(tokenizer) else ""
    wanted = [(turns, text.removeprefix(bos)) for turns in CONVERSATIONS if (text := _opened(render, turns))]
    if len(wanted) < _LEAST:
        return None
    for family, text in _candidates(wanted[0][1], ends):
        if all(go_template.render(text, turns) == said for turns, said in wanted):
            return GoTemplate(family, text, len(wanted))
    return None


def _opened(render: Render, turns: Sequence[Mapping[str, str]]) -> str:
    try:
        return render(turns, None, opened=True)
    except TemplateRejection:
        return ""


def _candidates(first: str, ends: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The families with their blanks filled.

    Args:
        first: what the jinja template writes for a conversation without a system's turn.
    """
    default = first.removeprefix("<|im_start|>system\n").partition("<|im_end|>")[0]
    for family, text in FAMILIES.items():
        if "{{ DEFAULT }}" in text:
            if first.startswith("<|im_start|>system\n") and _plain(default):
                yield family, text.replace("{{ DEFAULT }}", default)
        elif "{{ END }}" in text:
            yield from ((family, text.replace("{{ END }}", end)) for end in ends if _plain(end))
        else:
            yield family, text


def _plain(text: str) -> bool:
    """Whether text stands for itself in a Go template and in a Modelfile."""
    return "{{" not in text and "}}" not in text and '"""' not in text
