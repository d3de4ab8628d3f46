"""The rules of the house: what may import what, how rooms are called, how large a file may be.

The order of rooms is data, at the top; whoever adds a room writes it down here. `tests/tools/test_architecture.py`
holds the package to every rule, `tools/house.py` counts what each would find, docs/architecture.md says why.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tools.source_tree import House, Import, Module, circles, dotted, imports_of

OTHERS = "*"
"""Stands in an order for every module that it does not name."""

# What stands later may import what stands earlier, never the reverse.
ORDERS: Mapping[str, tuple[str, ...]] = {
    "": (
        *("core", "tiny", "settings", "runs", "endpoints", "rewards"),
        *("models", "methods", "launch", "peft_methods", "data"),
        *("evaluations", "config", "plan", "synthesis", "build"),
        *("pipelines", "advise", "recipes", "proofs", "sweeps"),
        *("publishing", "reports", "editors", "serving", "contracts"),
        *("worker", "cli"),
    ),
    "worker": (
        *("process", "trackers", "tokenise", "distributed", "tuners", "models", "inference", "rewards"),
        *("measures", "trainers", "training", "commands", "peers"),
    ),
    "data": ("files", "formats", OTHERS),
    # What every command needs is no command: it stands before `jobs`, which any command may ask.
    "cli": ("output", "render", "arguments", "requirements", "jobs", OTHERS),
}

# What the order alone would let pass. The worker is given a spec, so it knows nothing of argv, Hydra, recipes or plans;
# and the front half starts it as a process, since importing it would import torch.
FORBIDDEN: Mapping[str, tuple[str, ...]] = {
    "tiny": ("core",),
    "worker": (
        *("launch", "config", "plan", "build"),
        *("pipelines", "advise", "recipes", "proofs", "sweeps"),
        *("publishing", "reports", "editors", "serving", "contracts"),
    ),
    "cli": ("worker",),
}

HEAVY = frozenset({"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "safetensors"})

BANNED: Mapping[str, str] = {
    "asked": "request",
    "carry_out": "run",
    "cutting": "truncation",
    "fill": "packing, padding",
    "final": "save, last",
    "findings": "quality_checks",
    "found": "what it was that was found",
    "guard": "parent_watch, limits",
    "kinds": "file_types, dataset_types",
    "knobs": "options",
    "made": "synthesis",
    "making": "synthesis",
    "parts": "holdout, splits",
    "say": "output",
    "ship": "export",
    "steps": "fields, stages",
    "stop": "signals",
    "suspect": "text_checks",
    "told": "the text's own subject",
    "wardrobe": "adapter_switch",
    "words": "describe",
}
"""Module names that say nothing of their content, and what the field calls that."""

REGISTRIES = frozenset(
    {"methods", "peft_methods", "profiles", "backends", "trackers", "commands", "importers", "exporters", "cli"}
)
"""Folders with a file for each thing that a user may choose: as many as there are."""
DECLARATIONS = frozenset(
    {"METHOD", "METHODS", "PIPELINE", "PROFILE", "BACKEND", "TRACKER", "COMMAND", "IMPORTER", "EXPORTER"}
)
"""A module of a registry that binds one of these declares a choice, and is called as the user calls that choice."""

DOORS = ("__init__.py", "__main__.py", "py.typed", "__pycache__")
"""What the root of the package, and of a folder with rooms only, holds beside its rooms."""

SPEAKERS = frozenset({"cli", "cli.output", "cli.listing", "cli.completion"})
"""The modules that print: all commands through `output`, and those that answer before it could be imported."""
MAX_MODULES = 15
MAX_LINES = 400
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True, order=True)
class Violation:
    """One place that breaks a rule, and what mends it."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}  {self.what}\n  fix: {self.fix}"


def position(order: tuple[str, ...], room: str) -> int | None:
    """Where a room stands in an order; None when it has no place there."""
    name = room if room in order else OTHERS
    return order.index(name) if name in order else None


def _arrow(house: House, each: Import, fix: str) -> Violation:
    what = f"{each.importer} imports {each.target}"
    return Violation(house.where(each.importer, each.line), what, fix)


def back_imports(house: House, order: tuple[str, ...]) -> Iterator[tuple[Import, str, str]]:
    """The imports that go from a room to one behind it, with both rooms."""
    for each in house.own_imports:
        source, target = house.room(each.importer), house.room(each.target)
        here, there = position(order, source), position(order, target)
        if source and target and here is not None and there is not None and here < there:
            yield each, source, target


def order_of_rooms(house: House) -> Iterator[Violation]:
    """A room imports only rooms before its own, imports inside functions included."""
    for folder, order in ORDERS.items():
        part = house.within(folder) if folder else house
        if part is None:
            continue
        for each, source, target in back_imports(part, order):
            prefix = f"{folder}/" if folder else ""
            fix = (
                f"{prefix}{source} stands before {prefix}{target}: move down what both need, or pass it as an argument"
            )
            yield _arrow(part, each, fix)


def every_module_has_a_room(house: House) -> Iterator[Violation]:
    """The root holds `__init__`, `__main__`, `py.typed` and rooms; the same for folders with an order of their own."""
    for folder, order in ORDERS.items():
        part = house.within(folder) if folder else house
        if part is None or OTHERS in order:
            continue
        base = house.where(house.name).rpartition("/")[0]
        for path in sorted(part.folder.iterdir()):
            if path.name in (*order, *DOORS) and path.is_dir() == (path.name in (*order, "__pycache__")):
                continue
            where = f"{base}/{path.relative_to(house.folder).as_posix()}:1"
            what = f"{path.name} is no room of {part.name}"
            yield Violation(
                where, what, f"move it into {', '.join(order)}, or declare it in ORDERS of the house's rules"
            )


def forbidden_rooms(house: House) -> Iterator[Violation]:
    """The two halves stay apart, whatever the order would allow."""
    for each in house.own_imports:
        source, target = house.room(each.importer), house.room(each.target)
        if target in FORBIDDEN.get(source, ()):
            yield _arrow(house, each, f"{source} may not know {target}: pass what it needs as a value or in the spec")


def no_circles(house: House) -> Iterator[Violation]:
    """No circle of files, and none of rooms, in the house or in a folder that has an order of its own."""
    for circle in circles(house.files):
        first = min(i for i in house.own_imports if i.importer in circle and i.target in circle)
        yield _arrow(house, first, f"{' + '.join(circle)} import each other: move what they share into a module below")
    for folder in ORDERS:
        part = house.within(folder) if folder else house
        if part is None:
            continue
        for rooms in circles(part.rooms):
            inside = (i for i in part.own_imports if {part.room(i.importer), part.room(i.target)} <= {*rooms})
            first = min(i for i in inside if part.room(i.importer) != part.room(i.target))
            yield _arrow(part, first, f"the rooms {' + '.join(rooms)} import each other: move what they share down")


def heavy_imports(house: House) -> Iterator[Violation]:
    """The libraries that take seconds to import are imported only below worker/."""
    for each in house.imports:
        library = each.target.split(".")[0]
        if library in HEAVY and house.room(each.importer) != "worker":
            fix = "move it below worker/, or count without the library: help and checks must answer at once"
            yield _arrow(house, each, fix)


def hydra_imports(house: House) -> Iterator[Violation]:
    """Hydra is imported only in config/."""
    for each in house.imports:
        if each.target.split(".")[0] == "hydra" and house.room(each.importer) != "config":
            yield _arrow(house, each, "ask config/ for the composed values")


def _ends(node: ast.AST) -> str:
    """What a call or a raise does that only the command line may do; empty for everything else."""
    if isinstance(node, ast.Call):
        name = dotted(node.func)
        return name if name in ("print", "pprint", "pprint.pprint", "sys.exit", "exit", "quit") else ""
    if isinstance(node, ast.Raise) and node.exc is not None:
        name = dotted(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
        return f"raise {name}" if name == "SystemExit" else ""
    return ""


def one_room_speaks(house: House) -> Iterator[Violation]:
    """Only cli/ and the doors of a process print or exit. (The worker writes its progress to its own stderr.)"""
    for module in house.modules.values():
        if house.room(module.name) == "cli" or module.stem == "__main__":
            continue
        for node in ast.walk(module.tree):
            if name := _ends(node):
                fix = "return a value, or raise a FtcliError with a Problem; cli/ prints and exits"
                yield Violation(house.where(module.name, getattr(node, "lineno", 1)), f"{name} outside cli/", fix)


def _gets_behind(node: ast.AST) -> str:
    """What takes a stream of the process from behind the one that cleans what is written; empty for everything else."""
    if isinstance(node, ast.Attribute):
        name = dotted(node)
        behind = name.startswith(("sys.stdout.", "sys.stderr.")) and node.attr in ("buffer", "detach")
        return name if behind or name in ("sys.__stdout__", "sys.__stderr__", "os.write", "os.fdopen") else ""
    if isinstance(node, ast.Call) and dotted(node.func) in ("print", "pprint", "pprint.pprint"):
        return dotted(node.func)
    return ""


def one_stream_cleans(house: House) -> Iterator[Violation]:
    """What is printed goes through cli/output.py, or a door of the process, to the stream that cleans it."""
    for module in house.modules.values():
        name = module.name.partition(".")[2]
        if name in SPEAKERS or module.stem == "__main__":
            continue
        for node in ast.walk(module.tree):
            if found := _gets_behind(node):
                if found == "print" and house.room(module.name) != "cli":
                    continue  # which the rule of the one room finds
                fix = "print with cli/output.py, or write to sys.stderr, which cleans what is written"
                yield Violation(house.where(module.name, getattr(node, "lineno", 1)), f"{found} is not cleaned", fix)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_imports(house: House, *others: House) -> Iterator[Violation]:
    """No module takes a `_name` of another, neither by import nor as `module._name`; tests and benchmarks neither."""
    houses = (house, *others)
    ours = {each.name.split(".")[0] for each in houses}
    known = {name for each in houses for name in each.modules}
    for each in houses:
        for module in each.modules.values():
            taken = [i for i in imports_of(module, known) if i.target.split(".")[0] in ours]
            for item in taken:
                private = [part for part in (*item.target.split("."), item.member) if _is_private(part)]
                if private and item.target != module.name:
                    yield _private(each, module, item.line, private[0])
            modules = {item.bound for item in taken if item.bound and not item.member}
            for node in ast.walk(module.tree):
                of, name = _attribute(node)
                if of is not None and _is_private(name) and dotted(of) in modules:
                    yield _private(each, module, getattr(node, "lineno", 1), name)


def _attribute(node: ast.AST) -> tuple[ast.expr | None, str]:
    """What an attribute is taken of and its name, as `of.name` or as `getattr(of, "name")` and its like."""
    match node:
        case ast.Attribute(value=of, attr=name):
            return of, name
        case ast.Call(
            func=ast.Name(id=call) | ast.Attribute(attr=call), args=[of, ast.Constant(value=str(name)), *_]
        ) if call in ("getattr", "setattr", "delattr", "hasattr"):
            return of, name
    return None, ""


def _private(house: House, module: Module, line: int, name: str) -> Violation:
    fix = f"make {name} public under a name without the underscore, or reach it through what is public"
    return Violation(house.where(module.name, line), f"{module.name} takes {name} out of another module", fix)


def _is_declaration(module: Module) -> bool:
    names = {
        target.id
        for node in module.tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    return module.path.parent.name in REGISTRIES and bool(names & DECLARATIONS)


def repeated_stems(house: House, *, typed_too: bool = False) -> dict[str, list[Module]]:
    """The module names that occur twice in the front half.

    Choices and commands bear the names that users type, and count only with `typed_too`.
    """
    by_stem: dict[str, list[Module]] = defaultdict(list)
    for module in house.modules.values():
        typed = house.room(module.name) == "cli" or _is_declaration(module)
        if (
            house.room(module.name) != "worker"
            and (typed_too or not typed)
            and module.stem not in ("__init__", "__main__")
        ):
            by_stem[module.stem].append(module)
    return {stem: modules for stem, modules in sorted(by_stem.items()) if len(modules) > 1}


def one_name_one_module(house: House) -> Iterator[Violation]:
    """No module name occurs twice within the front half: a name leads to one file."""
    for stem, modules in repeated_stems(house).items():
        for module in modules[1:]:
            fix = f"{modules[0].name} is called {stem} too: name each by what only it holds"
            yield Violation(house.where(module.name), f"a second module called {stem}", fix)


def telling_names(house: House) -> Iterator[Violation]:
    """A module's name says its content, in the field's words."""
    for module in house.modules.values():
        name = module.name.rsplit(".", 1)[-1]
        if name in BANNED:
            yield Violation(
                house.where(module.name), f"{name} does not say what is in it", f"for example {BANNED[name]}"
            )


def modules_by_folder(house: House) -> dict[str, list[Module]]:
    """Folder, as seen from the house's, → its modules, `__init__` and `__main__` aside."""
    folders: dict[str, list[Module]] = defaultdict(list)
    for module in house.modules.values():
        if module.stem not in ("__init__", "__main__"):
            folders[module.path.parent.relative_to(house.folder).as_posix()].append(module)
    return folders


def small_folders(house: House) -> Iterator[Violation]:
    """A folder holds at most fifteen modules; a registry as many as there are choices."""
    for folder, modules in modules_by_folder(house).items():
        if len(modules) > MAX_MODULES and folder.rsplit("/", 1)[-1] not in REGISTRIES:
            where = house.where(modules[0].name).rpartition("/")[0] + "/:1"
            fix = "name the second room that is in it, and move that room's modules out"
            yield Violation(where, f"{len(modules)} modules in one folder, more than {MAX_MODULES}", fix)


def short_files(house: House) -> Iterator[Violation]:
    """A module has at most four hundred lines."""
    for module in house.modules.values():
        if module.num_lines > MAX_LINES:
            what = f"{module.num_lines} lines, more than {MAX_LINES}"
            yield Violation(house.where(module.name, MAX_LINES + 1), what, "name the second idea in it; move that out")


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a module, methods and inner ones too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the last, decorators aside."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def short_functions(house: House) -> Iterator[Violation]:
    """A function has at most sixty lines."""
    for module in house.modules.values():
        for node in functions(module):
            if (lines := function_lines(node)) > MAX_FUNCTION_LINES:
                where, what = house.where(module.name, node.lineno), f"{node.name} has {lines} lines"
                yield Violation(
                    where, what, f"at most {MAX_FUNCTION_LINES}: name its second idea, a function of its own"
                )


RULES: tuple[Callable[[House], Iterator[Violation]], ...] = (
    every_module_has_a_room,
    order_of_rooms,
    forbidden_rooms,
    no_circles,
    heavy_imports,
    hydra_imports,
    one_room_speaks,
    one_stream_cleans,
    private_imports,
    one_name_one_module,
    telling_names,
    small_folders,
    short_files,
    short_functions,
)
"""Every rule; each takes a house and gives what breaks it."""
