"""The tables of `make matrix`: what trains with what, on which architecture and profile, and what `check` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftcli.core.text import table
from ftcli.peft_methods import peft_method
from ftcli.peft_methods.other import IMPOSSIBLE, why_impossible
from tools.layout_table import layouts
from tools.result_tables import measured_with, result

_WHOLE = "The base model itself is trained: there is nothing to merge."


class _Notes:
    """Footnotes: the same text gets the same mark."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, text: str) -> str:
        return f"<sup>{self._marks.setdefault(text, str(len(self._marks) + 1))}</sup>"

    def lines(self) -> str:
        return "".join(f"{mark}. {text}\n" for text, mark in self._marks.items())


def matrix() -> str:
    """Method × peft × quantisation: what was trained, and why the rest is refused."""
    found = result("matrix", "make matrix")
    notes = _Notes()
    parts = [measured_with(found["versions"])]
    main = [cell for cell in found["cells"] if not cell["peft"].startswith("other ")]
    quantisations = list(dict.fromkeys(cell["quantisation"] for cell in main))
    for method in dict.fromkeys(cell["method"] for cell in main):
        own = [cell for cell in main if cell["method"] == method]
        parts.append(f"## method={method}\n\n" + _by_quantisation(own, quantisations, notes))
    others = [cell for cell in found["cells"] if cell not in main]
    rows = [
        (f"`peft.{cell['peft'].removeprefix('other peft.')}`", _trained(cell), _cell(cell, notes)) for cell in others
    ]
    rows += [(f"`peft.type={kind}`", "", "no" + notes.mark(why_impossible(kind))) for kind in IMPOSSIBLE]
    parts.append("## peft=other\n\n" + table(("Tuner", "Trainable", "`method=sft`, not quantised"), rows))
    parts.append("## Why\n\n" + notes.lines())
    return "\n".join(parts)


def _by_quantisation(cells: Sequence[Mapping[str, Any]], quantisations: Sequence[str], notes: _Notes) -> str:
    rows = []
    for peft in dict.fromkeys(cell["peft"] for cell in cells):
        own = {cell["quantisation"]: cell for cell in cells if cell["peft"] == peft}
        trained = next((_trained(cell) for cell in own.values() if "trainable" in cell), "")
        cells_of_row = (_cell(own[kind], notes) if kind in own else "" for kind in quantisations)
        rows.append((f"`peft={peft}`", trained, *cells_of_row))
    return table(("", "Trainable", *(f"`{kind}`" for kind in quantisations)), rows)


def _trained(cell: Mapping[str, Any]) -> str:
    return f"{cell['trainable']:,}" if "trainable" in cell else ""


def _cell(cell: Mapping[str, Any], notes: _Notes) -> str:
    if "refused" in cell:
        return "no" + notes.mark(cell["refused"])
    if "trainable" not in cell:
        return "**failed**"
    if cell["merged"] is None:
        return "trained" + notes.mark(_unmerged(cell["peft"]))
    return f"trained, merged: {cell['merged']:.0e}"


def _unmerged(choices: str) -> str:
    """Why a trained cell was not merged."""
    choice, *more = choices.split(" ")
    settings = {"name": choice, **dict(each.removeprefix("peft.").split("=", 1) for each in more)}
    method = peft_method(settings)
    if method is None or not method.adapter:
        return _WHOLE
    return f"Not merged: {method.never_merges}."


def architectures() -> str:
    """Every causal-LM architecture of the installed transformers: what was shown of it, or what failed."""
    result_of = result("architectures", "make matrix")
    found = result_of["architectures"]
    failed = {name: each["failed"] for name, each in found.items() if "failed" in each}
    returned = [name for name, each in found.items() if "failed" not in each]
    trained = [name for name in returned if found[name]["trained"]]
    packs = [name for name in returned if found[name]["packs"]]
    experts = [name for name in returned if found[name]["experts"]]
    counts = (
        f"{len(found)} of the {result_of['of']} causal-LM architectures of transformers were tried: {len(returned)} are"
        f" counted right, and LoRA on them is counted, saved, reloaded and merged; {len(trained)} of these were also"
        " trained for three steps and resumed.\n"
    )
    renamed = [name for name in returned if "lost_by_peft" in found[name]]
    rows = [
        ("packed rows train as separate rows do", ", ".join(f"`{name}`" for name in packs)),
        ("LoRA reaches stacked experts", ", ".join(f"`{name}`" for name in experts)),
        ("PEFT alone leaves out layers of its adapter", ", ".join(f"`{name}`" for name in renamed)),
        ("trained for three steps, and resumed", ", ".join(f"`{name}`" for name in trained)),
    ]
    parts = [measured_with(result_of["versions"]), counts, table(("What was shown", "Of"), rows)]
    parts.append(table(("Not shown", "Why"), [(f"`{name}`", why) for name, why in failed.items()]))
    return "\n".join(parts)


def fuzz() -> str:
    """Random changes of one field: what check said, and what a worker did."""
    found = result("fuzz", "make matrix")
    passed, refused = found["passed"], found["refused"]
    about = (
        f"{found['drawn']:,} changes of one field were drawn. Check passed {sum(passed.values()):,} of them and refused"
        f" {sum(refused.values()):,}. Of those that it passed, {len(found['failed'])} failed; of those that it refused"
        f" for no reason that this manual states, {len(found['wrongly_refused'])} train.\n"
    )
    rows = [("passed", _ENDED[kind], f"{number:,}") for kind, number in passed.items()]
    rows += [("refused", _REFUSED.get(kind, kind), f"{number:,}") for kind, number in refused.items()]
    wrong = [f"Wrong: {each}.\n" for each in (*found["failed"], *found["wrongly_refused"])]
    head = ("Check", "What came of it", "Changes")
    return "\n".join([measured_with(found["versions"]), about, table(head, rows), *wrong])


_ENDED = {
    "trained": "the worker trained two steps",
    "time was up": "the worker was not done in three minutes",
    "refused by the worker": "the worker refused it with a message: what it names is not there",
    "loss or gradient not a number": "the worker ended, with a message, where the loss or a gradient was no number",
    "failed": "the worker failed",
}
_REFUSED = {
    "owned": "another setting or flag owns the field",
    "refused": "nothing may set the field",
    "no effect": "it has no effect beside the other settings, or under this method",
    "needs a flag": "it needs a flag on the command line",
    "unknown word": "no such word",
    "unknown entry": "no such entry of a mapping",
    "unknown metric": "nothing reports that metric",
    "hardware": "this machine does not have what it needs",
    "trains": "wrongly: the worker trains",
}


REGIONS: dict[str, Callable[[], str]] = {
    "matrix": matrix,
    "architectures": architectures,
    "layouts": lambda: layouts(found := result("layouts", "make matrix"), measured_with(found["versions"])),
    "fuzz": fuzz,
}
"""The generated regions of the matrix's results."""
