"""The tables of docs/speed.md: ftcli beside other tools, types on a CPU, and rows of several processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ftcli.core.text import table
from tools.result_tables import measured_with, result

_COMMAND = "python benchmarks/against_contenders.py --save"
_TOOLS = {
    "ftcli": "ftcli",
    "trl": "TRL script",
    "llamafactory": "LLaMA-Factory",
    "axolotl": "Axolotl",
    "msswift": "ms-swift",
}
_NUMBERS = {
    "first_step_seconds": ("s", ".1f"),
    "tokens_per_second": ("real tokens/s", ",.0f"),
    "step_seconds": ("s a step", ".2f"),
    "peak_mib": ("peak MiB", ",.0f"),
}
"""What the numbers are called, and how they are written."""
_DEALT = ("as drawn", "as dealt")


def contenders() -> str:
    """What each tool took, and ours over the best of the others."""
    found = result("contenders", _COMMAND)
    rows = []
    for each in found["measures"].values():
        if "medians" not in each:
            continue
        parts = [each["what"], *([each["model"]] if each["model"] != "model" else [])]
        name = ", ".join([*parts, *(["bfloat16"] if each.get("bfloat16") else [])])
        for number, (unit, form) in _NUMBERS.items():
            if not any(number in values for values in each["medians"].values()):
                continue
            cells = [_cell(each, tool, number, form) for tool in _TOOLS]
            rows.append((name, unit, *cells, _ratio(each["ratios"].get(number)), f"{each['load']:.1f}"))
    if not rows:
        return "Not measured.\n"
    head = ("", "Unit", *_TOOLS.values(), "Ours / best", "Load")
    return f"{measured_with(found['versions'])}\n{table(head, rows)}"


def _cell(measure: Mapping[str, Any], tool: str, number: str, form: str) -> str:
    value = measure["medians"].get(tool, {}).get(number)
    return "" if value is None else format(value, form)


def _ratio(found: Mapping[str, Any] | None) -> str:
    """The median over rounds, with its ends where there are several."""
    if not found:
        return ""
    ends = f" ({min(found['each']):.2f}–{max(found['each']):.2f})" if len(found["each"]) > 1 else ""
    return f"{found['median']:.2f}{ends}"


def contender_settings() -> str:
    """Versions of the tools, and at which settings they ran."""
    found = result("contenders", _COMMAND)["contenders"]
    libraries = ("transformers", "trl", "peft")
    rows = [
        (
            f"{name} {found[tool]['version']}",
            ", ".join(f"{each} {found[tool]['libraries'][each]}" for each in libraries),
            found[tool]["settings"],
        )
        for tool, name in _TOOLS.items()
        if tool in found
    ]
    return table(("Tool", "With", "Settings"), rows)


def contender_leaks() -> str:
    """Whose packed documents see each other."""
    found = result("contenders", _COMMAND)["measures"].get("leaks")
    if found is None:
        return "Not measured.\n"
    rows = []
    for name, each in found["contenders"].items():
        tool, _, how = name.partition(", ")
        told = each.get("cannot") or (f"yes: states move by {each['moved']:.2g}" if each["leaks"] else "no")
        rows.append((", ".join(part for part in (_TOOLS.get(tool, tool), how) if part), told))
    return table(("Tool", "A document sees others of its packed row"), rows)


def contender_scaling() -> str:
    """Two processes beside one, and the cost of a token in longer packed steps."""
    found = result("contenders", _COMMAND)["measures"]
    parts = []
    if "processes" in found:
        ratio = found["processes"]["median_ratio"]
        text = f"Two gloo processes with a thread each compute {ratio:.2f} times the tokens of one"
        if (most := found["processes"].get("median_ratio_at_once")) is not None:
            text += f";\ntwo commands that run at once and wait for nothing compute {most:.2f} times those of one alone"
        parts.append(f"{text}.\n")
    if "blocks" in found:
        each = found["blocks"]
        rows = [
            (f"{int(block):,}", f"{min(times):.2f}", f"{each['cost_of_a_token'][block]:.2f}")
            for block, times in each["step_seconds"].items()
        ]
        parts.append(table(("Tokens of a packed step", "Seconds", "Cost of a token, the first row being 1"), rows))
    return "\n".join(parts) or "Not measured.\n"


def cpu_types() -> str:
    """bfloat16 beside float32 on a CPU, by its instructions."""
    found = result("cpu_types", "python benchmarks/cpu_types.py --save")
    rows = [
        (
            each["instructions"],
            f"{each['parameters'] / 1e6:.0f}M",
            f"{each['float32']:.2f}",
            f"{each['bfloat16']:.2f}",
            f"{each['bfloat16'] / each['float32']:.2f}",
        )
        for each in found["measured"]
    ]
    head = ("Instructions", "Parameters", "float32, s", "bfloat16, s", "bfloat16 / float32")
    return f"{measured_with(found['versions'])}\n{table(head, rows)}"


def dealt_rows() -> str:
    """How long processes wait for each other, of rows as drawn and as dealt."""
    found = result("dealt_rows", "python benchmarks/dealt_rows.py --save")["measured"]
    rows = [
        tuple(str(each[name]) for name in ("processes", "rows")) + tuple(f"{each[name]:.2f}" for name in _DEALT)
        for each in found
    ]
    return table(("Processes", "Rows of each", *_DEALT), rows)


REGIONS: dict[str, Callable[[], str]] = {
    "contenders": contenders,
    "contender-settings": contender_settings,
    "contender-leaks": contender_leaks,
    "contender-scaling": contender_scaling,
    "cpu-types": cpu_types,
    "dealt-rows": dealt_rows,
}
"""The generated regions of this module."""
