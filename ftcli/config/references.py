"""References between settings: `${group.key}` stands for the value of another setting, `$${` for the characters `${`.

Resolved here rather than by OmegaConf, whose resolvers read the environment and whose values grow without bound: ten
lines of references to references can stand for more text than a disk holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.strict_yaml import MAX_DEPTH, KeyPath

MAX_CHARACTERS = 1_000_000
"""Characters that all references of a configuration together may put in; a constitution has some ten thousand."""
MAX_VALUES = 10_000
"""Values that they may put in, where they refer to lists and mappings."""
MAX_CHAIN = 24
"""References that may lead from one to the next."""
MAX_OPEN = 4 * MAX_DEPTH
"""Levels of mappings and lists that such a chain may lead through: a bound that is met before the stack's."""

ESCAPE = "$${"
ONLY_REFERENCES = (
    f"only plain references like ${{train.learning_rate}} are allowed; for the characters ${{ themselves write {ESCAPE}"
)
"""What to do about a `${` that is no reference."""

_TOKEN = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")


def has_resolver(text: str) -> bool:
    """Whether a text has a `${` that is neither a plain reference nor escaped, such as `${oc.env:HOME}`."""
    return "${" in text and "${" in _TOKEN.sub("", text)


def refers(text: str) -> bool:
    """Whether a text has a `${`, escaped or not."""
    return "${" in text


def escaped(value: Any) -> Any:
    """A plain value as a recipe writes it: every `${` in its texts escaped."""
    return with_texts(value, lambda text: text.replace("${", ESCAPE))


def unescaped(value: Any) -> Any:
    """The value that a recipe writes, where nothing in it refers to a setting: `escaped` undone."""
    return with_texts(value, lambda text: text.replace(ESCAPE, "${"))


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A value with each of its texts changed; the keys of mappings stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: with_texts(each, change) for key, each in value.items()}
    return [with_texts(each, change) for each in value] if isinstance(value, list) else value


def resolved(data: dict[str, Any], where: Callable[[KeyPath], str]) -> dict[str, Any]:
    """The tree with every reference replaced by what it refers to.

    Args:
        where: the place of a setting, for errors.

    Raises:
        ConfigError: a reference is undefined or circular, or together they put in more than the limits.
    """
    found = _Resolver(data, where).at(())
    assert isinstance(found, dict)
    return found


class _Resolver:
    """Resolves each setting once, however many refer to it, and counts what references put in."""

    def __init__(self, data: dict[str, Any], where: Callable[[KeyPath], str]) -> None:
        self.data, self.where = data, where
        self.done: dict[KeyPath, Any] = {}
        self.open: dict[KeyPath, None] = {}
        self.chain = self.characters = self.values = 0

    def fault(self, path: KeyPath, what: str, fix: str) -> ConfigError:
        return ConfigError(Problem(self.where(path), f"{'.'.join(path)} {what}", fix))

    def at(self, path: KeyPath) -> Any:
        """The value of a setting, its references resolved."""
        if path not in self.done:
            self.open[path] = None
            if len(self.open) > MAX_OPEN:
                raise self.fault(path, f"stands more than {MAX_OPEN} levels deep, references included", "flatten it")
            self.done[path] = self.value(_step_down(self.data, path), path)
            del self.open[path]
        return self.done[path]

    def value(self, value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: self.at((*path, key)) for key in value}
        if isinstance(value, list):
            return [self.at((*path, str(index))) for index in range(len(value))]
        return self.text(value, path) if isinstance(value, str) and "${" in value else value

    def text(self, text: str, path: KeyPath) -> Any:
        """A text whose references are resolved; a text that is one reference becomes the value itself."""
        if (whole := _TOKEN.fullmatch(text)) and whole["name"]:
            return self.referred(whole["name"], path)
        pieces, end = [], 0
        for token in _TOKEN.finditer(text):
            pieces += [text[end : token.start()], self.written(token, path)]
            end = token.end()
        return "".join([*pieces, text[end:]])

    def written(self, token: re.Match[str], path: KeyPath) -> str:
        """What stands for one token inside of a text."""
        if not token["name"]:
            return "${"
        value = self.referred(token["name"], path)
        if isinstance(value, dict | list):
            what = f"puts {token[0]} into a text, but that is no single value"
            raise self.fault(path, what, "refer to one of its values")
        return str(value)

    def referred(self, name: str, path: KeyPath) -> Any:
        """The value that a reference in `path` refers to."""
        target = tuple(name.split("."))
        if _step_down(self.data, target) is _MISSING:
            what = f"refers to {name}, which is not set"
            raise self.fault(path, what, "refer to a setting that has a value")
        if target in self.open:
            raise self.fault(path, f"refers to {name}, which refers back to it", "give one of them a value")
        self.chain += 1
        if self.chain > MAX_CHAIN:
            what = f"is reached through more than {MAX_CHAIN} references, each to the next"
            raise self.fault(path, what, "refer to the last of them")
        value = self.at(target)
        self.chain -= 1
        self.spend(value, path)
        return value

    def spend(self, value: Any, path: KeyPath) -> None:
        """Count what a reference puts in against the limits."""
        values, characters = _size(value)
        self.values += values
        self.characters += characters
        if self.characters > MAX_CHARACTERS or self.values > MAX_VALUES:
            what = f"brings what references put in to more than {MAX_CHARACTERS} characters or {MAX_VALUES} values"
            raise self.fault(path, what, "write the values out where they are short, and shorten them where not")


_MISSING = object()


def _step_down(data: Any, path: KeyPath) -> Any:
    """The value at a path as written; `_MISSING` where there is none."""
    for key in path:
        if isinstance(data, list) and key.isdigit() and int(key) < len(data):
            data = data[int(key)]
        elif isinstance(data, dict) and key in data:
            data = data[key]
        else:
            return _MISSING
    return data


def _size(value: Any) -> tuple[int, int]:
    """Values and characters of a resolved value."""
    if isinstance(value, str):
        return 1, len(value)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    sizes = [_size(each) for each in inside]
    return 1 + sum(values for values, _ in sizes), sum(characters for _, characters in sizes)
