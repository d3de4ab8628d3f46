"""Values and names that stand only in the code of the installed libraries, read from there without importing it.

The words of a choice, the parameters of a function, and what the functions behind a choice read and import. Only the
lines in question are parsed: the modules are large, and a check has to answer at once.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from ftcli.settings.fields.field_row import Source
from ftcli.settings.library_fields import class_definition, source_text


@cache
def values_of(source: Source) -> tuple[str, ...]:
    """The words that a source holds, in the order in which they stand there.

    Raises:
        ModuleNotFoundError: the library is not installed.
    """
    if source.kind == "members":
        return _members(source)
    if source.kind == "literal":
        text = source_text(source.module)
        found = re.findall(rf"^\w*{source.name}\s*=\s*(\([^)]*\)|\[[^\]]*\]|\{{[^}}]*\}})", text, re.MULTILINE)
    else:
        several = r"\[[^\]]*\]|\{[^}]*\}|\([^)]*\)"
        name = rf"(?<!\w){source.name}"
        pattern = rf"{name}\s*(?:==|!=|(?:not )?in)\s*(\"[^\"]*\"|'[^']*'|{several})"
        found = re.findall(pattern, source_text(source.module))
    return tuple(dict.fromkeys(word for text in found for word in _words(text)))


def _words(text: str) -> Iterator[str]:
    """The words in the source text of a literal; none where it is computed."""
    try:
        node = ast.parse(text, mode="eval").body
    except (ValueError, SyntaxError):
        return
    # The nodes and not their value: a set's order would change with every process.
    for each in getattr(node, "elts", [node]):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def _members(source: Source) -> tuple[str, ...]:
    located = class_definition(source.module, source.name)
    values = (each.value for each in (located[1].body if located else ()) if isinstance(each, ast.Assign))
    return tuple(each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str))


class Parameter(NamedTuple):
    """One parameter of a function of a library."""

    annotation: ast.expr | None
    required: bool


@cache
def function(module: str, name: str) -> ast.FunctionDef | None:
    """A function of the module, or a method `CLASS.NAME`; None where it has none of that name."""
    inside, _, last = name.rpartition(".")
    text, indent = source_text(module), "    " if inside else ""
    if inside:
        start = re.search(rf"^class {inside}\b", text, re.MULTILINE)
        if start is None:
            return None
        text = text[start.start() :]
    start = re.search(rf"^{indent}def {last}\(", text, re.MULTILINE)
    if start is None:
        return None
    body = text[start.start() :]
    end = re.compile(rf"^(?!{indent}[ \n)]|\s*$)", re.MULTILINE).search(body, body.index("\n"))
    dedented = re.sub(rf"^{indent}", "", body[: end.start() if end else None], flags=re.MULTILINE)
    node = ast.parse(dedented).body[0]
    return node if isinstance(node, ast.FunctionDef) else None


def parameters(module: str, name: str) -> Mapping[str, Parameter]:
    """The parameters of a function by name, without `self`; empty where it does not exist."""
    node = function(module, name)
    if node is None:
        return {}
    ordered = [*node.args.posonlyargs, *node.args.args]
    optional = {each.arg for each in ordered[len(ordered) - len(node.args.defaults) :]}
    optional |= {each.arg for each, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if default}
    return {
        each.arg: Parameter(annotation=each.annotation, required=each.arg not in optional)
        for each in (*ordered, *node.args.kwonlyargs)
        if each.arg != "self"
    }


@cache
def dispatch(module: str, constant: str, enumeration: str) -> Mapping[str, str]:
    """A table `{Enumeration.MEMBER: function}` of a module, as value of the member → name of the function.

    Entries `**dict.fromkeys(LIST, function)` are resolved too.
    """
    located = class_definition(module, enumeration)
    named = {
        each.targets[0].id: str(each.value.value)
        for each in (located[1].body if located else ())
        if isinstance(each, ast.Assign)
        and isinstance(each.value, ast.Constant)
        and isinstance(each.targets[0], ast.Name)
    }
    text, found = source_text(module), {}
    table = re.search(rf"^{constant}\b[^=]*= \{{(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
    for member, handler in re.findall(rf"{enumeration}\.(\w+): (\w+)", table.group(1) if table else ""):
        found[named[member]] = handler
    for listed, handler in re.findall(r"\*\*dict\.fromkeys\((\w+), (\w+)\)", table.group(1) if table else ""):
        members = re.search(rf"^{listed} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
        for member in re.findall(rf"{enumeration}\.(\w+)", members.group(1) if members else ""):
            found[named[member]] = handler
    return found


def imported_by(module: str, name: str) -> tuple[str, ...]:
    """The top-level packages that a function imports itself, in the order in which they stand there."""
    node = function(module, name)
    modules = (
        each.module for each in ast.walk(node) if isinstance(each, ast.ImportFrom) and not each.level and each.module
    ) if node else ()  # fmt: skip
    return tuple(dict.fromkeys(each.partition(".")[0] for each in modules))


def keys_read(module: str, name: str, mapping: str) -> tuple[str, ...]:
    """The keys that a function looks up in a mapping: by get, pop, `in` or a loop over the keys that it knows."""
    node = function(module, name)
    if node is None:
        return ()
    text = ast.unparse(node)
    own = re.findall(rf"{mapping}(?:\.(?:get|pop|setdefault)\(|\[)'(\w+)'", text)
    own += re.findall(rf"'(\w+)' in \w*\.?{mapping}", text)
    for listed, body in re.findall(r"for key in (\([^)]*\)):\n(.*)", text):
        if mapping in body:
            own += list(_words(listed))
    return tuple(dict.fromkeys(own))


@cache
def metric_names(module: str) -> tuple[str, ...]:
    """What a trainer's module logs as metrics, `{…}` standing for what is computed there."""
    text = source_text(module)
    found = re.findall(r"""_metrics\[mode\]\[f?["']([^"']+)["']\]""", text)
    return tuple(dict.fromkeys(found))
