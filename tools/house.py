"""Measure the house: how the package's rooms and files hang together, in figures that one can compare.

    python tools/house.py [PACKAGE_FOLDER] [--json] [--against OTHER]

PACKAGE_FOLDER is `ftcli` beside this script unless another is given; OTHER is the package folder of an earlier state,
and gives a table of before and after. A room is what lies directly in the package, folder or loose module. `worker/`
and `data/` are measured once more as houses of their own. Where the rooms are not those of the declared order, as in a
tree from before it, back-arrows are counted against the order that leaves fewest of them.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import random
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

from tools import house_rules as rules
from tools.source_tree import Graph, House, Module, arrows, circles, longest_chain, read_house

REPOSITORY = Path(__file__).resolve().parent.parent
OWN_HOUSES = ("worker", "data")
SIBLINGS = ("tests", "tools", "benchmarks")
"""Folders beside the package that may not take its private names either."""

LABELS = {
    "modules": "modules",
    "rooms": "rooms",
    "floors": "floors (longest chain of rooms)",
    "arrows": "arrows between rooms",
    "back_arrows": "back-arrows",
    "file_circles": "circles of files",
    "room_circles": "circles of rooms",
    "largest_knot": "rooms in the largest knot",
    "file_chain": "longest chain of file imports",
    "largest_folder": "modules in the largest folder",
    "large_folders": f"folders of more than {rules.MAX_MODULES} modules",
    "long_files": f"modules of more than {rules.MAX_LINES} lines",
    "long_functions": f"functions of more than {rules.MAX_FUNCTION_LINES} lines",
    "documented": "public names with a docstring (%)",
    "comments": "comments per 100 lines",
    "private_imports": "imports of another module's `_name`",
    "repeated_stems": "module names that occur twice in the front half",
    "repeated_typed": "the same, choices and commands included",
    "banned_names": "module names that say nothing",
}


def best_order(knot: list[str], graph: Graph) -> list[str]:
    """An order of the rooms of a knot in which few arrows point back; the best that moving single rooms finds."""

    def back(order: list[str]) -> int:
        return sum(later in graph[room] for at, room in enumerate(order) for later in order[at + 1 :])

    def settled(order: list[str]) -> list[str]:
        for room in order:
            rest = [other for other in order if other != room]
            moved = min(([*rest[:at], room, *rest[at:]] for at in range(len(order))), key=back)
            if back(moved) < back(order):
                return settled(moved)
        return order

    shuffled = [random.Random(seed).sample(knot, len(knot)) for seed in range(10)]
    return min((settled(order) for order in shuffled), key=back)


def back_arrows(house: House, order: tuple[str, ...]) -> list[tuple[str, str]]:
    """The arrows between rooms that point the wrong way."""
    declared = {*order} - {rules.OTHERS} <= house.rooms.keys()
    if declared and all(rules.position(order, room) is not None for room in house.rooms):
        return sorted({(source, target) for _, source, target in rules.back_imports(house, order)})
    found = []
    for knot in circles(house.rooms):
        place = {room: at for at, room in enumerate(best_order(knot, house.rooms))}
        inside = [(a, b) for a, b in arrows(house.rooms) if a in place and b in place]
        found += [(source, target) for source, target in inside if place[source] < place[target]]
    return found


def _public(module: Module) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The module and every function and class in it whose name has no underscore before it."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Module) or (
            isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
        ):
            yield node


def documented(house: House) -> float:
    """Share of the public modules, classes and functions that have a docstring, in per cent."""
    has = [ast.get_docstring(node) is not None for module in house.modules.values() for node in _public(module)]
    return round(100 * sum(has) / max(len(has), 1), 1)


def comments(house: House) -> float:
    """Comments per 100 lines of file; those that only speak to a checker (`noqa`, `type:`) are none."""
    count = lines = 0
    for module in house.modules.values():
        lines += module.num_lines
        tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
        texts = [token.string for token in tokens if token.type == tokenize.COMMENT]
        count += sum(not re.match(r"#\s*(noqa|type:)", text) for text in texts)
    return round(100 * count / max(lines, 1), 1)


def measure(house: House, order: tuple[str, ...], *beside: House) -> dict[str, Any]:
    """Every figure of one house: a number, or the list of what was counted."""
    knots = circles(house.rooms)
    folders = {folder: len(modules) for folder, modules in rules.modules_by_folder(house).items()}
    long_functions = [
        f"{module.name}.{node.name}"
        for module in house.modules.values()
        for node in rules.functions(module)
        if rules.function_lines(node) > rules.MAX_FUNCTION_LINES
    ]
    return {
        "modules": len(house.modules),
        "rooms": sorted(house.rooms),
        "floors": longest_chain(house.rooms),
        "arrows": len(arrows(house.rooms)),
        "back_arrows": [f"{source} -> {target}" for source, target in back_arrows(house, order)],
        "file_circles": [" + ".join(circle) for circle in circles(house.files)],
        "room_circles": [" + ".join(knot) for knot in knots],
        "largest_knot": max(map(len, knots), default=0),
        "file_chain": longest_chain(house.files),
        "largest_folder": max(folders.values(), default=0),
        "large_folders": [f"{folder} {count}" for folder, count in folders.items() if count > rules.MAX_MODULES],
        "long_files": [m.name for m in house.modules.values() if m.num_lines > rules.MAX_LINES],
        "long_functions": long_functions,
        "documented": documented(house),
        "comments": comments(house),
        "private_imports": [str(each.where) for each in rules.private_imports(house, *beside)],
        "repeated_stems": list(rules.repeated_stems(house)),
        "repeated_typed": list(rules.repeated_stems(house, typed_too=True)),
        "banned_names": [each.where for each in rules.telling_names(house)],
    }


def measure_all(folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of a package, and of those of its folders that are houses of their own."""
    house = read_house(folder)
    beside = [read_house(path) for name in SIBLINGS if (path := house.folder.parent / name).is_dir()]
    figures = {"package": measure(house, rules.ORDERS[""], *beside)}
    for name in OWN_HOUSES:
        if part := house.within(name):
            figures[f"{name}/"] = measure(part, rules.ORDERS[name])
    return figures


def _shown(value: object) -> str:
    return str(len(value)) if isinstance(value, list) else "–" if value is None else str(value)


def table(after: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]] | None = None) -> str:
    """The figures as Markdown: a table a house, and below it what was counted."""
    columns = [after] if before is None else [before, after]
    heads = ["now"] if before is None else ["before", "after"]
    lines: list[str] = []
    for name in after:
        lines += [f"## {name}", "", f"| figure | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
        for key, label in LABELS.items():
            values = [_shown(figures.get(name, {}).get(key)) for figures in columns]
            lines.append(f"| {label} | {' | '.join(values)} |")
        lines.append("")
        for key in ("rooms", "floors", "back_arrows", "file_circles", "room_circles", "file_chain", "large_folders"):
            if after[name][key]:
                between = " > " if key in ("floors", "file_chain") else ", "
                lines.append(f"- {LABELS[key]}: {between.join(after[name][key])}")
        for key in (
            "long_files",
            "long_functions",
            "private_imports",
            "repeated_stems",
            "repeated_typed",
            "banned_names",
        ):
            if after[name][key]:
                lines.append(f"- {LABELS[key]}: {', '.join(after[name][key])}")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Print the figures of a package folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("package", nargs="?", type=Path, default=REPOSITORY / "ftcli", help="the package's folder")
    parser.add_argument("--json", action="store_true", help="every figure with what was counted")
    parser.add_argument("--against", type=Path, metavar="OTHER", help="the package's folder in an earlier state")
    options = parser.parse_args()
    for folder in filter(None, (options.package, options.against)):
        if not folder.is_dir():
            parser.error(f"{folder} is not a folder")
    after = measure_all(options.package)
    before = measure_all(options.against) if options.against else None
    if options.json:
        print(json.dumps(after if before is None else {"before": before, "after": after}, indent=2))
    else:
        print(table(after, before))


if __name__ == "__main__":
    main()
