"""The tables in docs/models.md of what each shipped model takes, from its file and from what the planner counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ftcli.build.fitting import TIGHT
from ftcli.cli.output import count
from ftcli.core import assets
from ftcli.core.strict_yaml import load
from ftcli.core.text import table
from ftcli.settings.groups import ModelSettings
from tools.result_tables import measured_templates, result

CARDS = (24, 48, 80)
"""GiB of the cards that are told."""


def needs() -> str:
    """Each model with what its file says of it, and what it takes in each way."""
    found = _found()
    notes: dict[str, int] = {}
    rows = [tuple(_row(each, found["ways"], notes)) for each in found["models"]]
    head = ("`model=`", "Parameters", "Context", "Licence", "Answers", "Packs", *found["ways"])
    told = "".join(f"{number}. {text}\n" for text, number in notes.items())
    return table(head, rows) + (f"\n{told}" if told else "")


def _found() -> dict[str, Any]:
    return result("model_needs", "python -m benchmarks.model_needs --save")


def _row(found: Mapping[str, Any], ways: Mapping[str, str], notes: dict[str, int]) -> Iterator[str]:
    choices, name = assets.choices("model"), found["name"]
    model = ModelSettings(**load(choices[name]).data)
    yield f"`{name}`" + (f", `{name}-base`" if f"{name}-base" in choices else "")
    yield count(found["parameters"])
    yield f"{found['context']:,}" if found["context"] else ""
    yield (model.licence or "") + (", gated" if "(gated" in assets.first_comment(choices[name]) else "")
    yield ("with reasoning" if model.thinking else "plain") if model.has_template else "no template"
    yield "yes" if found["packs"] else "no"
    for way in ways:
        yield cell(found["gib"][way], notes)


def cell(gib: float | str, notes: dict[str, int]) -> str:
    """The memory and the smallest card with room to spare, or why there is none."""
    if isinstance(gib, str):
        return f"no<sup>{notes.setdefault(gib, len(notes) + 1)}</sup>"
    card = next((each for each in CARDS if gib <= TIGHT * each), None)
    return f"{gib:.1f}, " + (f"**{card}**" if card else "several")


def ways() -> str:
    """What stands in each column, as it is typed."""
    return table(("Column", "Planned with"), [(name, f"`{words}`") for name, words in _found()["ways"].items()])


_UNKNOWN = "?"
"""What stands in the model's repository alone."""
_OF_TEMPLATE = ("answers found by", "tools", "reasoning", "Modelfile")


def uses() -> str:
    """Each model with its chat template, quantised types, GGUF and vLLM; models of which the same is known in a row."""
    found = result("model_uses", "python -m benchmarks.model_uses --save")
    notes: dict[str, int] = {}
    grouped: dict[tuple[str, ...], list[str]] = {}
    for each in found["models"]:
        grouped.setdefault(tuple(_use(each, notes)), []).append(f"`{each['name']}`")
    rows = sorted(grouped.items(), key=lambda row: row[0][0] == _UNKNOWN)
    head = ("`model=`", "Chat template", *(each.capitalize() for each in _OF_TEMPLATE))
    head = (*head, "4 bits", "8 bits", "llama.cpp", "LoRA at vLLM")
    told = "".join(f"{number}. {text}\n" for text, number in notes.items())
    grid = table(head, [(", ".join(names), *cells) for cells, names in rows])
    return grid + (f"\n{told}" if told else "")


def _use(found: Mapping[str, Any], notes: dict[str, int]) -> Iterator[str]:
    """What is known of a model, a cell each."""
    yield " or ".join(f"`{name}`" for name in found["templates"]) or _UNKNOWN
    measured = measured_templates()["templates"]
    for column in _OF_TEMPLATE:
        cells = {measured[name][column].partition(":")[0] for name in found["templates"]}
        yield " or ".join(sorted(cells)) or _UNKNOWN
    for why in found["quantised"].values():
        taken = "all but the experts" if found["experts"] else "yes"
        yield f"no<sup>{notes.setdefault(why, len(notes) + 1)}</sup>" if why else taken
    if not found["gguf"]:
        yield "no"
    else:
        yield (
            f"yes, tokenizer `{found['pre_tokenizer']}`" if found["pre_tokenizer"] else "yes, if it knows the tokenizer"
        )
    yield "merged" if found["experts"] else "beside its base"


REGIONS: Mapping[str, Callable[[], str]] = {"model-needs": needs, "model-needs-ways": ways, "model-uses": uses}
