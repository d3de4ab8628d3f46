"""The table of the shipped recipes, from the comments at the head of each.

The first line is what a recipe is for, and the command that runs it. Then follow, each on a line that opens with its
name: `Rows`, what data it wants; `Card`, what it is planned for and the memory that the plan counts of it there; and
`Source`, where its values were published.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ftcli.config.recipe_file import read
from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import table

CPU = "cpu"
_LINE = re.compile(r"# (Rows|Card|Source): (.+)")
_CARD = re.compile(r"(?:(?P<number>\d+) x )?(?P<name>[\w.-]+), (?P<memory>\d+(?:\.\d+)?) GiB \(estimate\)")


class RecipeHead(NamedTuple):
    """What a recipe says of itself."""

    purpose: str
    command: str
    rows: str
    card: str
    """A name that `hardware.gpu` takes, or `cpu`."""
    num_cards: int
    memory_gib: float
    """Of the process that needs most, in its largest stage: an estimate."""
    source: str

    @property
    def cards(self) -> str:
        """The cards with their number."""
        return f"{self.num_cards} × {self.card}" if self.num_cards > 1 else self.card


def head_of(path: Path) -> RecipeHead:
    """What a shipped recipe says at its head.

    Raises:
        ConfigError: a line is missing, or does not say what it has to.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    purpose, _, command = assets.first_comment(path).partition("   ")
    said = {line[1]: line[2] for line in map(_LINE.match, lines) if line}
    card = _CARD.fullmatch(said.get("Card", ""))
    if not command or "Rows" not in said or card is None:
        fix = "# PURPOSE   COMMAND, then # Rows: WHAT, and # Card: NAME, N GiB (estimate), or 8 x NAME"
        raise ConfigError(Problem(f"{path}:1", "the head of a recipe names no command, rows or card", fix))
    number = int(card["number"] or 1)
    return RecipeHead(
        purpose, command.strip(), said["Rows"], card["name"], number, float(card["memory"]), said.get("Source", "")
    )


def recipes() -> str:
    """The shipped recipes: what each is for, what it chooses, what it wants, and the card that it was planned for."""
    rows = []
    for name, path in assets.recipes().items():
        head, choices = head_of(path), read(path).choices
        chosen = f"{choices['method']}, {choices['peft']}"
        memory = f"{head.cards}, {head.memory_gib:g} GiB"
        rows.append((f"[`{name}`](../recipes/{path.name})", head.purpose, chosen, choices["model"], head.rows, memory))
    return table(("Recipe", "For", "Method, adapter", "Model", "Rows", "Card, memory of it (estimate)"), rows)


def published() -> str:
    """The recipes that state somebody else's settings, and where those were published."""
    heads = {name: head_of(path) for name, path in assets.recipes().items()}
    return table(("Recipe", "Source"), [(f"`{name}`", head.source) for name, head in heads.items() if head.source])


REGIONS = {"recipes": recipes, "published-recipes": published}
