"""Fields of the installed library configs and of our own settings, read from source without importing them.

Importing TrainingArguments takes seconds and needs torch; parsing its file takes milliseconds. A field's type stays the
annotation's syntax tree, and values are checked against that tree.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ftcli.core.declarations import names_in
from ftcli.core.module_source import package_folder, top_level_source

TRAINING_ARGUMENTS = "transformers.training_args:TrainingArguments"

ENUMS = {
    "OptimizerNames": "transformers.training_args",
    "SchedulerType": "transformers.trainer_utils",
    "IntervalStrategy": "transformers.trainer_utils",
    "SaveStrategy": "transformers.trainer_utils",
    "HubStrategy": "transformers.trainer_utils",
}
"""Enumerations that annotate TrainingArguments fields, and where they are defined."""


@dataclass(frozen=True)
class Field:
    """One field of a config class, as syntax trees; its texts are made when they are asked for."""

    name: str
    annotation: ast.expr
    value: ast.expr | None
    """The default; None if it has none."""
    help: str
    choices: tuple[str, ...] = ()
    owner: str = ""
    """The class that declares it."""

    @property
    def type_text(self) -> str:
        """The annotation as source text."""
        return ast.unparse(self.annotation)

    @property
    def default(self) -> str:
        """The default as source text; "" if it has none."""
        return ast.unparse(self.value) if self.value is not None else ""


@cache
def _package(top: str) -> Path:
    package = package_folder(top)
    if package is None:
        raise ModuleNotFoundError(f"{top} is not installed")
    return package


@cache
def _source(module: str) -> Path:
    """The source file of a module; only the top package is looked up, so nothing is imported."""
    top, *rest = module.split(".")
    if not rest and (source := top_level_source(top)) is not None:
        return source
    folder = _package(top).joinpath(*rest)
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


@lru_cache(maxsize=2)
def source_text(module: str) -> str:
    """The source text of a module."""
    return _source(module).read_text(encoding="utf-8")


def _statement_of(module: str, name: str) -> re.Match[str] | None:
    return re.search(rf"^class {name}\b", source_text(module), re.MULTILINE)


def _definition(module: str, name: str) -> ast.ClassDef:
    """A class of the module that defines it, up to its first method: parsing only its fields takes milliseconds."""
    text, start = source_text(module), _statement_of(module, name)
    assert start is not None
    # The class ends, for our purpose, at the first line without indentation, decorator or method.
    end = re.compile(r"^(?=[^\s#)\]}]|    (@|def |async def ))", re.MULTILINE).search(
        text, text.index("\n", start.end())
    )
    try:
        body = ast.parse(text[start.start() : end.start() if end else len(text)]).body
    except SyntaxError:  # a multi-line string with unindented text was taken for the end
        body = ast.parse(text).body
    return next(node for node in body if isinstance(node, ast.ClassDef) and node.name == name)


def _imports(module: str) -> list[ast.ImportFrom]:
    """The `from … import …` statements of the module."""
    statements = re.findall(r"^from \S+ import (?:\([^)]*\)|[^(\n]*)", source_text(module), re.MULTILINE)
    return [node for node in ast.parse("\n".join(statements)).body if isinstance(node, ast.ImportFrom)]


@cache
def _defined_in(module: str, name: str) -> str | None:
    """The module that defines a class, following the imports of this one; None where it has no source."""
    if not _source(module).is_file():
        return None
    if _statement_of(module, name) is not None:
        return module
    for node in _imports(module):
        if any(alias.name == name for alias in node.names):
            if node.level:  # a relative import: one dot is the package that holds the module
                depth = node.level - (_source(module).name == "__init__.py")
                parts = module.split(".")[: len(module.split(".")) - depth]
                target = ".".join([*parts, node.module] if node.module else parts)
            else:
                target = str(node.module)
            if target == "transformers":  # a lazy package: the class is not in its __init__
                target = TRAINING_ARGUMENTS.partition(":")[0]
            return _defined_in(target, name)
    return None


def class_definition(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """The definition of a class, following its imports, and the module that defines it; None where it has no source."""
    # Not cached: the tree of TrainingArguments takes a megabyte, and its fields are all that is kept of it.
    home = _defined_in(module, name)
    return (home, _definition(home, name)) if home is not None else None


def _text(node: ast.expr | None) -> str:
    """The string a (possibly concatenated) literal makes, else an empty string."""
    if node is None:
        return ""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


def _one_of(names: Sequence[str]) -> ast.expr:
    """The annotation of a field that takes one of these words: the choices that a folder declares, one file each."""
    return ast.parse(f"Literal[{', '.join(map(repr, names))}]", mode="eval").body


def _field(statement: ast.AnnAssign, docs: str, owner: str) -> Field:
    assert isinstance(statement.target, ast.Name)
    default, text, annotation = statement.value, docs, statement.annotation
    choices: tuple[str, ...] = ()
    if isinstance(default, ast.Call) and getattr(default.func, "id", "") == "field":
        arguments = {keyword.arg: keyword.value for keyword in default.keywords}
        default = arguments.get("default") or arguments.get("default_factory")
        metadata = arguments.get("metadata")
        if isinstance(metadata, ast.Dict):
            entries = dict(zip((_text(key) for key in metadata.keys), metadata.values, strict=True))
            text = _text(entries.get("help")) or docs
            if package := _text(entries.get("declared_in")):
                annotation = _one_of(names_in(package))
            bare = entries.get("const")
            if isinstance(bare, ast.Constant) and isinstance(bare.value, bool):
                # `const` is the value of a bare option: `--fsdp` alone means True, though its type is `str | None`.
                annotation = ast.BinOp(annotation, ast.BitOr(), ast.Name("bool", ast.Load()))
            listed = entries.get("choices")
            if isinstance(listed, (ast.List, ast.Tuple)):
                choices = tuple(str(item.value) for item in listed.elts if isinstance(item, ast.Constant))
    return Field(statement.target.id, annotation, default, text, choices, owner)


def _is_class_variable(annotation: ast.expr) -> bool:
    named = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return getattr(named, "id", getattr(named, "attr", "")) == "ClassVar"


@cache
def fields_of(config: str) -> Mapping[str, Field]:
    """The fields of the config class `module:Class` with those it inherits, by name.

    Raises:
        LookupError: the installed library has no such class.
        ModuleNotFoundError: the library is not installed.
    """
    named_in, _, name = config.partition(":")
    module = _defined_in(named_in, name)
    if module is None:
        raise LookupError(f"{config} is not in the installed library")
    if module != named_in:
        return fields_of(f"{module}:{name}")
    definition, result = _definition(module, name), dict[str, Field]()
    # Inherited fields first, so that a class overrides those of its bases.
    for base in definition.bases:
        base_name = getattr(base, "id", "")
        if base_name and _defined_in(module, base_name):
            result.update(fields_of(f"{module}:{base_name}"))
    for index, statement in enumerate(definition.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            # The libraries document a field by a string below it, or by `help` in its metadata.
            following = definition.body[index + 1] if index + 1 < len(definition.body) else None
            docs = _text(following.value) if isinstance(following, ast.Expr) else ""
            if not _is_class_variable(statement.annotation):
                result[statement.target.id] = _field(statement, docs, name)
    return result


def value_of(config: str, settings: Mapping[str, Any], name: str) -> Any:
    """A field of the config class `module:Class` as a run has it: as set, else the class's own default.

    The default is read from source, so it is written in one place. One that is no literal comes as its source text.
    """
    if settings.get(name) is not None:
        return settings[name]
    text = fields_of(config)[name].default.removeprefix("lambda: ")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@cache
def enum_values(name: str) -> tuple[str, ...]:
    """The values of a string enumeration of transformers, such as the optimiser names."""
    located = class_definition(ENUMS[name], name)
    if located is None:
        return ()
    return tuple(
        statement.value.value
        for statement in located[1].body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def accepts(annotation: ast.expr, value: Any) -> bool:
    """Whether `value`, as read from YAML or the command line, is of the annotated type."""
    if isinstance(annotation, ast.BinOp):  # X | Y
        return accepts(annotation.left, value) or accepts(annotation.right, value)
    if isinstance(annotation, ast.Constant):
        if annotation.value is None:
            return value is None
        # A quoted annotation is source text of its own.
        return isinstance(annotation.value, str) and accepts(ast.parse(annotation.value, mode="eval").body, value)
    if isinstance(annotation, ast.Subscript):
        return _accepts_generic(getattr(annotation.value, "id", ""), annotation.slice, value)
    name = getattr(annotation, "id", "")
    if name in ENUMS:
        return value in enum_values(name)
    # Python counts True as an integer; a setting that wants a number does not.
    if name == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if name == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    # JSON and YAML have no tuples: a list stands for one. Any other class is never accepted.
    plain = {"bool": bool, "str": str, "dict": dict, "list": list, "tuple": list}
    return name == "Any" or (name in plain and isinstance(value, plain[name]))


def _accepts_generic(name: str, inner: ast.expr, value: Any) -> bool:
    """`accepts` for `name[inner]`; False for a generic type that is not handled here."""
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Optional":
        return value is None or accepts(inner, value)
    if name == "Union":
        return any(accepts(part, value) for part in parts)
    if name == "Literal":
        options = [part.value for part in parts if isinstance(part, ast.Constant)]
        return any(type(value) is type(option) and value == option for option in options)
    if name == "list":
        return isinstance(value, list) and all(accepts(inner, item) for item in value)
    if name == "tuple":
        types = [part for part in parts if not (isinstance(part, ast.Constant) and part.value is ...)]
        if len(types) < len(parts):  # tuple[X, ...]
            return isinstance(value, list) and all(accepts(types[0], item) for item in value)
        return isinstance(value, list) and len(value) == len(types) and all(map(accepts, types, value))
    if name == "dict":
        return isinstance(value, dict) and all(
            accepts(parts[0], key) and accepts(parts[1], item) for key, item in value.items()
        )
    return False


def options(field: Field) -> tuple[str, ...]:
    """The values of a choice field (enumeration, Literal or declared choices); () for any other."""
    if field.choices:
        return field.choices
    values: list[str] = []
    for node in ast.walk(field.annotation):
        if isinstance(node, ast.Name) and node.id in ENUMS:
            values.extend(enum_values(node.id))
        elif isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal":
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            values.extend(p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str))
    return tuple(values)
