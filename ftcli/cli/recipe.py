"""`ftcli recipe ACTION`: list, print and check recipes, or say what one would touch.

Each action is a module of `recipe_actions`, which declares itself as a command does and is imported when it is called.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence

from ftcli.cli import declared, output
from ftcli.core.exit_codes import EXIT_DONE

SUMMARY = "list, print, check, save and lock recipes; inspect says what one of a stranger would touch"
ORDER = 140

ACTIONS: dict[str, tuple[str, str]] = declared(os.path.join(os.path.dirname(__file__), "recipe_actions"))
"""Each action's module and summary, in the order of the help screen."""


def run(argv: Sequence[str]) -> int:
    """Run one action; without any, list the shipped recipes."""
    if argv and argv[0] in ("-h", "--help"):
        output.text(usage(), end="")
        return EXIT_DONE
    # The action may stand behind its flags: ftcli recipe --json list.
    action = next((word for word in argv if not word.startswith("-")), "list")
    if action not in ACTIONS:
        _refuse(action)
    rest = [*argv]
    if action in rest:
        rest.remove(action)
    module = importlib.import_module(f"ftcli.cli.recipe_actions.{ACTIONS[action][0]}")
    result: int = module.run(rest)
    return result


def usage() -> str:
    """The text of `ftcli recipe --help`."""
    rows = "\n".join(f"  {name:<9} {line}" for name, (_, line) in ACTIONS.items())
    return f"""usage: ftcli recipe [ACTION] [--flag]

{rows}

Without an action, the shipped recipes are listed. ftcli recipe ACTION --help says what an action takes.
"""


def _refuse(action: str) -> None:
    """Report a word that is no action.

    Raises:
        ConfigError: always.
    """
    from ftcli.core.errors import ConfigError, Problem
    from ftcli.core.suggest import suggest

    what = f"{action} is not an action: {', '.join(ACTIONS)}"
    raise ConfigError(Problem("ftcli recipe", what, suggest(action, ACTIONS, "ftcli recipe ")))
