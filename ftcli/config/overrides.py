"""The overrides that a user types after the command: `group=choice`, `key=value`, `+key=`, `~key`, in Hydra's grammar.

Departs from Hydra in one way: values of path settings are taken literally, so `data.path=/x/y (1).json` needs no quotes
inside quotes; a setting for rows may list several.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ftcli.core import strict_yaml
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.module_source import is_file_of_code
from ftcli.data.path_list import split_paths
from ftcli.settings.groups import GROUPS, is_delimiter_key, is_functions_key, is_path_key, is_rows_key

_SHAPE = re.compile(r"(?P<sign>~|\+\+|\+)?(?P<key>[A-Za-z_][\w.-]*)(?P<rest>=(?P<value>.*))?", re.DOTALL)


_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NO_WORDS = frozenset({"true", "false", "null", "nan", "inf"})
"""Words that the grammar takes for another type, in any case of their letters."""
_EXAMPLES = (
    "for example method=dpo, train.learning_rate=2e-5, rows.jsonl, recipe=support.yaml; ftcli list shows choices"
)


@dataclass(frozen=True)
class Override:
    """One override as typed, its key as a path, and its value; `literal` values are never interpolated."""

    text: str
    key: tuple[str, ...]
    value: Any = None
    delete: bool = False
    literal: bool = False

    @property
    def name(self) -> str:
        """The key as typed, dots and all."""
        return ".".join(self.key)


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value


def _functions(value: str) -> dict[str, Any] | None:
    """The functions of `{file.py:function: 1}`, files made absolute; None for another value.

    Hydra's grammar has no word with a colon in it, so the mapping is read as YAML, as it is in a recipe.
    """
    if not value.startswith("{"):
        return None
    try:
        found = strict_yaml.parse(f"functions: {value}", "").data.get("functions")
    except ConfigError:
        return None
    return {absolute_function(str(name)): weight for name, weight in found.items()} if isinstance(found, dict) else None


def absolute_function(name: str, folder: str = "") -> str:
    """`file.py:function` with the file's place from a folder on, here where none is named; another name as it is."""
    place, _, function = name.rpartition(":")
    if not is_file_of_code(place):
        return name
    return f"{os.path.abspath(os.path.join(folder, os.path.expanduser(place)))}:{function}"


def _parse_value(text: str, plain: str) -> Any:
    word = plain.partition("=")[2]
    if _WORD.fullmatch(word) and word.lower() not in _NO_WORDS:
        return word  # as the grammar would say, after a time in which several groups are composed
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(plain)
    # A number with thousands of digits, or brackets nested as deeply.
    except (HydraException, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        fix = "quote the value for both shell and grammar: 'key=\"…\"'"
        raise ConfigError(Problem(text, f"cannot be read: {reason}", fix)) from None
    if override.is_sweep_override():
        raise ConfigError(
            Problem(text, "lists several values", "add -m to run one job per value, or write [a,b] for a list")
        )
    return override.value()


def parse(text: str) -> Override:
    """One override.

    Raises:
        ConfigError: invalid syntax, or a sweep without `-m`.
    """
    match = _SHAPE.fullmatch(text)
    if match is None and (steers := re.match(r"[~+]*[\w./-]*([@/:])[\w./@:-]*(=|$)", text)):
        what = f"uses Hydra's {steers[1]} in a name; groups here cannot be nested or moved"
        raise ConfigError(Problem(text, what, "group=choice, such as method=dpo"))
    if match is None or (match["rest"] is None and match["sign"] != "~"):
        from ftcli.config.key_hints import setting_for

        what, fix = "is neither group=choice nor key=value", _EXAMPLES
        if match is not None:
            fix = setting_for(match["key"], None) or _EXAMPLES
        raise ConfigError(Problem(text, what, fix))
    key = tuple(match["key"].split("."))
    if "" in key:
        raise ConfigError(Problem(text, "has an empty name between dots", "write group.key=value"))
    if key[0] == "hydra":
        what = "configures Hydra, which does not run ftcli"
        raise ConfigError(Problem(text, what, "run.dir=DIR sets the run directory, -m runs a sweep"))
    if match["sign"] == "~":
        if match["rest"] is not None:
            raise ConfigError(Problem(text, "removes a setting, so it takes no value", f"~{match['key']}"))
        return Override(text, key, delete=True)
    if is_path_key(match["key"]) or match["key"] == "recipe":
        value = _unquoted(match["value"])
        listed = split_paths(value) if is_rows_key(match["key"]) else value
        return Override(text, key, None if value == "null" else listed, literal=True)
    if is_functions_key(match["key"]) and (functions := _functions(match["value"])) is not None:
        return Override(text, key, functions)
    if is_delimiter_key(match["key"]):  # a character such as ; is no word of the grammar
        return Override(text, key, _unquoted(match["value"]))
    return Override(text, key, _parse_value(text, text.lstrip("+")))


def repeated(overrides: Iterable[Override]) -> Iterator[Problem]:
    """A problem for each recipe, choice or place of rows that an earlier override sets too.

    Of any other setting the last value counts, as in Hydra, so that a script's own can be overridden behind it.
    """
    earlier: dict[str, Override] = {}
    for override in overrides:
        is_recipe, is_rows = override.name == "recipe", is_rows_key(override.name)
        if override.delete or not (is_recipe or is_rows or override.key[-1] in GROUPS):
            continue
        if is_rows and override.value is None:  # takes the earlier one back, and says so
            earlier.pop(override.name, None)
            continue
        first = earlier.setdefault(override.name, override)
        if first is override or (first.value == override.value and not is_recipe):
            continue
        if is_recipe:
            what, fix = "is a second recipe", "keep one; what is to change in it is an override, key=value"
        elif is_rows:
            fix = f"list the files, as {override.name}=[FILE,FILE]; data.mix gives each set its share"
            what = "names rows a second time"
        else:
            what, fix = f"is a second choice of {override.name}", "keep one of them"
        yield Problem(override.text, f"{what}, after {first.text}", fix)
