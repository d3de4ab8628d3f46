"""A foreign configuration as data: a YAML or JSON file, or the command line in a shell script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftcli.config.conversion import foreign_yaml
from ftcli.config.conversion.command_line import training_command
from ftcli.config.conversion.foreign_yaml import Overwritten
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.strict_yaml import KeyPath, read_text

SUFFIXES = (".yaml", ".yml", ".json", ".sh")


@dataclass(frozen=True)
class ForeignFile:
    """What a file sets, and where."""

    path: Path
    shown: str
    data: dict[str, Any]
    lines: Mapping[KeyPath, int]
    overwritten: tuple[Overwritten, ...] = ()
    command: tuple[str, ...] = ()
    """Of a script: the words that name the program, `("swift", "sft")`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of a script: the variables that stand before the command."""


def read(path: Path, shown: str) -> ForeignFile:
    """Read a configuration. Nothing in it is run.

    Raises:
        ConfigError: no readable YAML, JSON or script with one training command.
    """
    if path.suffix not in SUFFIXES:
        fix = "name a .yaml, .yml or .json file, or a .sh file with the command line"
        raise ConfigError(Problem(shown, "is no configuration that can be imported", fix))
    text = read_text(path, shown)
    if path.suffix == ".sh":
        command = training_command(text, shown)
        lines: dict[KeyPath, int] = {(key,): line for key, line in command.lines.items()}
        return ForeignFile(
            path, shown, command.values, lines, command.overwritten, command.program, command.environment
        )
    # JSON is YAML but for tabs between its tokens; inside a text JSON writes them as \t.
    found = foreign_yaml.parse(text.replace("\t", " ") if path.suffix == ".json" else text, shown)
    return ForeignFile(path, shown, found.document.data, found.document.lines, found.overwritten)
