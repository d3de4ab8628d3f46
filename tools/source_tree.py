"""A package as its source shows it: modules, their imports, and who reaches whom. Nothing is imported to find out.

Imports inside functions count, and those under `if TYPE_CHECKING` too: a reader who wants to understand a module has to
follow them all the same. Python also runs the `__init__` of every folder on the way to a module; that is not counted,
since a module depends on what it names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Graph = Mapping[str, Set[str]]
"""Node → the nodes that its arrows point at."""


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str
    """Dotted, beginning with the package's name; a folder's `__init__` bears the folder's name."""
    path: Path
    text: str
    tree: ast.Module

    @property
    def is_init(self) -> bool:
        """Whether the file is the `__init__` of its folder."""
        return self.path.name == "__init__.py"

    @property
    def stem(self) -> str:
        """The file's own name, without its suffix."""
        return self.path.stem

    @property
    def num_lines(self) -> int:
        """Lines of the file, blank ones included."""
        return len(self.text.splitlines())


@dataclass(frozen=True, order=True)
class Import:
    """One name that one module takes from another, or from a library."""

    importer: str
    line: int
    target: str
    """The module that is imported, dotted; of our own modules always one that exists."""
    member: str
    """What is taken out of it; empty when it is the module itself."""
    bound: str = ""
    """How the importing module writes what it took."""


def dotted(node: ast.AST) -> str:
    """`a.b.c` as it is written; empty for whatever is more than names and dots."""
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if isinstance(node, ast.Attribute) and inner else ""


def _relative(module: Module, node: ast.ImportFrom) -> str:
    """What `from ..x import y` means in `module`, dotted."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parents = parts[: len(parts) - node.level + module.is_init]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _called(node: ast.Call) -> str:
    """The module that `import_module("…")` or `__import__("…")` names in plain text; empty for any other call."""
    function = dotted(node.func).rpartition(".")[2]
    if function not in ("import_module", "__import__") or not node.args:
        return ""
    first = node.args[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def imports_of(module: Module, known: Set[str]) -> Iterator[Import]:
    """Every import of a module, in whatever corner; `known` tells modules from the names that they hold."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module.name, node.lineno, alias.name, "", alias.asname or alias.name)
        elif isinstance(node, ast.ImportFrom):
            origin = _relative(module, node)
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                target, member = (inner, "") if inner in known else (origin, alias.name)
                yield Import(module.name, node.lineno, target, member, alias.asname or alias.name)
        elif isinstance(node, ast.Call) and (target := _called(node)):
            yield Import(module.name, node.lineno, target, "")


@dataclass(frozen=True)
class House:
    """A package, or one of its folders looked at as if it were a package of its own."""

    name: str
    """Dotted name of the folder: `ftcli`, `ftcli.worker`."""
    folder: Path
    modules: Mapping[str, Module]

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import of every module, libraries included."""
        known = self.modules.keys()
        return tuple(each for module in self.modules.values() for each in imports_of(module, known))

    @cached_property
    def own_imports(self) -> tuple[Import, ...]:
        """The imports that stay in the house."""
        return tuple(i for i in self.imports if i.target in self.modules and i.target != i.importer)

    @cached_property
    def files(self) -> Graph:
        """Module → the modules it imports."""
        graph: dict[str, set[str]] = {name: set() for name in self.modules}
        for each in self.own_imports:
            graph[each.importer].add(each.target)
        return graph

    @cached_property
    def rooms(self) -> Graph:
        """Room → the rooms it imports. A room is what lies directly in the house, a folder or a loose module."""
        graph: dict[str, set[str]] = {room: set() for name in self.modules if (room := self.room(name))}
        for each in self.own_imports:
            source, target = self.room(each.importer), self.room(each.target)
            if source and target and source != target:
                graph[source].add(target)
        return graph

    def room(self, module: str) -> str:
        """The room that a module lies in; empty for the house's `__init__` and `__main__`, which are its doors."""
        inner = module.removeprefix(self.name).removeprefix(".").split(".")[0]
        return "" if inner == "__main__" else inner

    def where(self, module: str, line: int = 1) -> str:
        """`file:line`, the file as seen from the folder that the package lies in."""
        base = self.folder.parents[self.name.count(".")]
        return f"{self.modules[module].path.relative_to(base).as_posix()}:{line}"

    def within(self, folder: str) -> House | None:
        """One folder of the house as a house of its own; None where there is no such folder."""
        name = f"{self.name}.{folder}"
        inner = {key: module for key, module in self.modules.items() if f"{key}.".startswith(f"{name}.")}
        return House(name, self.folder / folder, inner) if (self.folder / folder).is_dir() and inner else None


def read_house(folder: Path) -> House:
    """Parse every module below a package's folder.

    Raises:
        SyntaxError: a file is not Python.
    """
    folder = folder.resolve()
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        modules[name] = Module(name, path, text, ast.parse(text, str(path)))
    return House(folder.name, folder, modules)


def components(graph: Graph) -> list[list[str]]:
    """Strongly connected components (Tarjan 1972), each after all that it points at."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    done: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            start = stack.index(node)
            done.append(sorted(stack[start:]))
            del stack[start:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return done


def circles(graph: Graph) -> list[list[str]]:
    """The components in which everything reaches everything else, largest first."""
    return sorted((c for c in components(graph) if len(c) > 1), key=lambda c: (-len(c), c))


def longest_chain(graph: Graph) -> list[str]:
    """The longest way along the arrows, from its top down. A circle counts once, under its members' names."""
    best: dict[str, list[str]] = {}
    for members in components(graph):
        below = (best[target] for node in members for target in graph[node] if target not in members)
        chain = [" + ".join(members), *max(below, key=len, default=[])]
        best.update(dict.fromkeys(members, chain))
    return max(best.values(), key=len, default=[])


def arrows(graph: Graph) -> list[tuple[str, str]]:
    """Every arrow, in the order of the alphabet."""
    return [(source, target) for source in sorted(graph) for target in sorted(graph[source])]
