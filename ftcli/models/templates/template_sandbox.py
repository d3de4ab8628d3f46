"""Jinja's immutable sandbox, in which a template also ends: what one rendering does and builds is counted.

The sandbox of Jinja keeps a template from attributes and modules, but lets three nested loops run for ever and
`'x' * 10**10` take all memory. Here each iteration and call is a step, and each text and list that an expression makes
is counted when it is made; what could grow in a single operation is counted before it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_STEPS = 1 << 22
"""Iterations and calls of one rendering. A thousand turns take a million where a template looks back at each."""
STEPS_OF_A_MACRO = 16
"""What a call of a macro counts, which takes so much longer than another step."""
MAX_CHARACTERS = 1 << 27
"""Characters of all the texts that one rendering makes on its way: a row of a MiB goes through some fifty of them."""
MAX_VALUES = 1 << 20
"""Values in all the lists that one rendering makes, each counted as often as it is reached."""
MAX_ARGUMENT = 1 << 20
"""The largest number that a function or filter is given, such as the width of a column."""
MAX_BITS = 4096
"""Binary digits of a whole number."""

_WIDE = re.compile(r"\d{5}")
"""A width in a format, such as {:100000}."""
_GROWING_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "translate", "zfill", "format", "format_map"})
_GROWING_FILTERS = frozenset(
    {"center", "format", "indent", "pprint", "replace", "sum", "tojson", "truncate", "urlize", "wordwrap", "xmlattr"}
    | {"batch", "slice"}
)
"""What may return more than it is given by a factor that its arguments decide."""
_BY_CHARACTER = frozenset({"list", "batch", "slice", "map", "sort"})
"""Filters that make a value of each character of a text."""
_PRECISION = ("round",)
_MOST_DIGITS = 100


class TemplateOverrun(Exception):
    """One rendering does or builds more than the limits allow; the message names the limit."""


def _overrun(limit: int, name: str) -> TemplateOverrun:
    return TemplateOverrun(f"takes more than {limit} {name} to render a conversation")


class Budget:
    """What one rendering has used so far."""

    def __init__(self) -> None:
        self.steps = self.characters = self.values = 0

    def spend(self, *, steps: int = 0, characters: int = 0, values: int = 0) -> None:
        """Count, and stop the rendering at a limit."""
        self.steps += steps
        self.characters += characters
        self.values += values
        if self.steps > MAX_STEPS:
            raise _overrun(MAX_STEPS, "steps")
        if self.characters > MAX_CHARACTERS:
            raise _overrun(MAX_CHARACTERS, "characters")
        if self.values > MAX_VALUES:
            raise _overrun(MAX_VALUES, "values")

    def account(self, value: Any) -> Any:
        """The value, counted as it was made."""
        if isinstance(value, str):
            self.spend(characters=len(value))
        elif isinstance(value, int):
            if value.bit_length() > MAX_BITS:
                raise TemplateOverrun(f"computes a number of more than {MAX_BITS} binary digits")
        elif isinstance(value, list | tuple | dict):
            values, _ = size(value)
            self.spend(values=values)
        return value


def size(value: Any, limit: int = MAX_VALUES) -> tuple[int, int]:
    """Values and characters in a value, what is in it twice counted twice; counting ends at the limit."""
    waiting, values, characters = [value], 0, 0
    while waiting and values <= limit:
        each = waiting.pop()
        values += 1
        if isinstance(each, str):
            characters += len(each)
        elif isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, list | tuple):
            waiting += each
    return values, characters


class _Counting(NodeTransformer):
    """Puts a counting filter around whatever makes texts and lists, or repeats, without calling the environment."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        constant = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = self._around(node.iter, "ftcli_counted", nodes.Const(constant, environment=node.environment))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._around(
            nodes.List(node.nodes, lineno=node.lineno, environment=node.environment), "ftcli_concatenated"
        )

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return self._around(node, "ftcli_made") if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return self._around(node, "ftcli_made") if _may_repeat(node.items) else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return self._around(node, "ftcli_made")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return self._around(node, "ftcli_made") if node.ctx == "load" and _may_repeat(node.items) else node

    @staticmethod
    def _around(node: nodes.Node, name: str, *arguments: nodes.Expr) -> nodes.Filter:
        assert isinstance(node, nodes.Expr)
        return nodes.Filter(node, name, [*arguments], [], None, None, lineno=node.lineno, environment=node.environment)


def _may_repeat(items: list[nodes.Expr]) -> bool:
    return not all(isinstance(item, nodes.Const) for item in items)


class _Generation(Extension):
    """`{% generation %}` marks assistant turns for the loss mask; here only its content counts."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads a class attribute

    def parse(self, parser: Any) -> Any:
        """The block's body, without the mark."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Renders templates of strangers; `budget` is what the rendering under way has used."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,
            finalize=self._written,
        )
        self.budget = Budget()
        self.constant_characters = 0
        self.filters["tojson"] = _tojson
        self.filters = {name: self._counted_filter(name, each) for name, each in self.filters.items()}
        self.filters |= {
            "ftcli_counted": self._iterated,
            "ftcli_concatenated": self._concatenated,
            "ftcli_made": lambda value: self.budget.account(value),
        }
        self.globals |= {"dict": _TemplateDict(), "namespace": _TemplateNamespace}
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = self._now
        del self.globals["lipsum"]  # text of any length, and none that a conversation has

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        self.constant_characters = sum(len(data.data) for data in source.find_all(nodes.TemplateData))
        return super()._generate(_Counting().visit(source), *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operation that may grow: counted before where that is cheap, else after."""
        if operator == "*":
            texts = [each for each in (left, right) if isinstance(each, str | list | tuple)]
            numbers = [each for each in (left, right) if isinstance(each, int)]
            if texts and numbers:
                values, characters = size(texts[0])
                self.budget.spend(values=values * max(0, *numbers), characters=characters * max(0, *numbers))
            elif len(numbers) == 2 and sum(each.bit_length() for each in numbers) > MAX_BITS:
                self.budget.account(1 << MAX_BITS)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * abs(right) > MAX_BITS:
                self.budget.account(1 << MAX_BITS)
        elif operator == "%" and isinstance(left, str):
            self._require_narrow(left, [right], {})
        return self.budget.account(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call: a step, and one more for each value that is handed over to be gone through."""
        given = [*args, *kwargs.values()]
        steps = sum(len(each) for each in given if isinstance(each, list | tuple | dict | range))
        is_block = isinstance(__obj, Macro | LoopContext)
        constant = __self.constant_characters if is_block else 0
        __self.budget.spend(steps=(STEPS_OF_A_MACRO if is_block else 1) + steps, characters=constant)
        if __obj is not __self.globals["range"]:  # which has a bound of its own
            __self._require_small(given)
        if isinstance(owner := getattr(__obj, "__self__", None), str):
            __self._before_method(owner, str(getattr(__obj, "__name__", "")), args, kwargs)
        return __self.budget.account(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja's own safe `format`, whose widths are bounded."""
        inner = super().wrap_str_format(value)
        if inner is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            self._require_narrow(value.__self__, args, kwargs)
            return str(inner(*args, **kwargs))

        return bounded

    def _before_method(self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count what a method of a text is about to make."""
        if name == "join" and args:
            items = list(args[0]) if not isinstance(args[0], str) else args[0]
            self.budget.spend(characters=len(text) * len(items) + size(items)[1])
        elif name == "replace" and len(args) > 1 and isinstance(args[1], str):
            self.budget.spend(characters=text.count(str(args[0])) * len(args[1]))
        elif name in ("split", "rsplit", "splitlines"):
            separators = args[0] if args and isinstance(args[0], str) and args[0] else " "
            self.budget.spend(values=text.count(separators) + text.count("\n"))
        elif name in _GROWING_METHODS:
            self._require_product(text, [*args, *kwargs.values()])

    def _counted_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter whose work and result are counted."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            value, given = args[first], [*args[first + 1 :], *kwargs.values()]
            if not isinstance(value, str | int | float | list | tuple | dict | range | Undefined | None):
                value = _printable(self._iterated(value) if isinstance(value, Iterator) else value)
            self.budget.spend(steps=1 + (len(value) if isinstance(value, list | tuple | range) else 0))
            self._require_small(given, most=_MOST_DIGITS if name in _PRECISION else MAX_ARGUMENT)
            if isinstance(value, str) and name in _BY_CHARACTER:
                self.budget.spend(values=len(value))
            if name == "format":
                self._require_narrow(str(value), given, {})
            elif name == "join":
                value = list(value) if isinstance(value, Iterator) else value
                self.budget.spend(characters=size(value)[1] + len(value) * sum(size(given[:1])))
            elif name in _GROWING_FILTERS:
                self._require_product(value, given)
            return self.budget.account(function(*args[:first], value, *args[first + 1 :], **kwargs))

        return counted

    def _require_product(self, value: Any, given: list[Any]) -> None:
        """Count what may be made of a value by arguments that each of its parts is multiplied with."""
        values, characters = size(value)
        factor = sum(each if isinstance(each, int) else sum(size(each)) for each in given)
        self.budget.spend(characters=min(values + characters, MAX_CHARACTERS) * max(1, factor))

    @staticmethod
    def _require_small(given: Iterable[Any], most: int = MAX_ARGUMENT) -> None:
        for each in given:
            if isinstance(each, int) and abs(each) > most:
                raise TemplateOverrun(f"gives a function a number above {most}")

    def _require_narrow(self, form: str, args: Any, kwargs: Any) -> None:
        """Check a format: its widths, and how often it can repeat what it is given."""
        if "%" in form or "{" in form:
            given = [*args, *(kwargs.values() if isinstance(kwargs, dict) else ())]
            self._require_small(given)
            if _WIDE.search(form):
                raise TemplateOverrun("writes a value in a column of more than four digits")
            placeholders = form.count("%") + form.count("{")
            self.budget.spend(characters=len(form) + placeholders * sum(sum(size(each)) for each in given))

    def _iterated(self, value: Any, constant: int = 0) -> Any:
        """What a loop goes through: its steps and the text between its expressions are counted."""
        if isinstance(value, Iterator):
            return self._one_by_one(value, constant)
        if isinstance(value, str | list | tuple | dict | range):
            self.budget.spend(steps=len(value), characters=constant * len(value))
        return value

    def _one_by_one(self, values: Iterator[Any], constant: int) -> Iterator[Any]:
        for each in values:
            self.budget.spend(steps=1, characters=constant)
            yield each

    def _concatenated(self, parts: list[Any]) -> str:
        return str(self.budget.account("".join(str(self._written(part)) for part in parts)))

    def _written(self, value: Any) -> Any:
        """What is put into the text, counted."""
        if isinstance(value, str):
            self.budget.spend(characters=len(value))
            return value
        values, characters = size(_printable(value))
        self.budget.spend(characters=values + characters)
        if values > MAX_VALUES:
            self.budget.spend(values=values)
        return value

    def _now(self, form: str) -> str:
        self._require_narrow(form, (), {})
        return datetime.now().strftime(form)


class _TemplateDict:
    """`dict` as transformers gives it to templates: nothing but what makes one."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As `dict.fromkeys`."""
        return dict.fromkeys(*args)


class _TemplateNamespace(Namespace):
    """`namespace` as transformers gives it to templates: without names that lead to Python's own attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        values = dict(*args, **kwargs)
        for name in values:
            _TemplateNamespace._require_plain(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _TemplateNamespace._require_plain(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _require_plain(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise TemplateError(f"a namespace takes no name that begins with an underscore, such as {name}")


def _printable(value: Any) -> Any:
    """The value, unless it is a namespace: that one may hold itself."""
    if isinstance(value, Namespace):
        raise TemplateError("a namespace has no text: write one of its values")
    return value


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **more: Any) -> str:
    # Jinja's own escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **more)
