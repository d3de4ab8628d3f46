"""Ollama's Modelfile, written: the file of weights, the chat template and the tokens that end answers.

`ftcli/serving/deployed_modelfile.py` reads one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NAME = "Modelfile"


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says, as far as answers depend on it."""

    weights: str
    """The file or model of FROM, as it is written there."""
    template: str | None = None
    stops: Sequence[str] = ()


def written(modelfile: Modelfile, note: str = "") -> str:
    """The text of a Modelfile.

    Args:
        note: a line for who reads it.
    """
    lines = [*(f"# {line}" for line in note.splitlines()), f"FROM {modelfile.weights}"]
    if modelfile.template is not None:
        lines.append(f'TEMPLATE """{modelfile.template}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in modelfile.stops if '"' not in stop]
    return "\n".join(lines) + "\n"
