"""`ftcli plugins check DIR`: whether a plugin keeps the contracts of what it declares; `ftcli plugins` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.plugins.plugin_loading import KINDS, Plugin, all_plugins

NAME = "plugins"
SUMMARY = "list plugins; check DIR says what is wrong with one, which runs its code"
ORDER = 147


def run(argv: Sequence[str]) -> int:
    """List the plugins of this command line and of the installed packages, or check the one in a folder."""
    parser = arguments.parser("plugins", __doc__ or "")
    parser.add_argument("action", nargs="?", choices=("list", "check"), default="list")
    parser.add_argument("folder", nargs="?", metavar="DIR", help="check: the folder of a plugin, whose code runs")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if (options.action == "check") is (options.folder is None):
        parser.error("check takes the folder of a plugin, and list takes none")
    if options.action == "list":
        return _list(as_json=options.json)
    return _check(all_plugins()[0], as_json=options.json)  # the one that was named, which is loaded by now


def _list(*, as_json: bool) -> int:
    plugins = all_plugins()
    if as_json:
        output.data({each.name: {"folder": str(each.folder), "recorded": each.recorded} for each in plugins})
        return EXIT_DONE
    if not plugins:
        output.say("no plugin: --plugins DIR names one, and an installed package may bring one (docs/extending.md)")
    output.table([(each.name, each.package or "folder", str(each.folder), _held(each)) for each in plugins])
    return EXIT_DONE


def _held(plugin: Plugin) -> str:
    return ", ".join(f"{kind}: {' '.join(names)}" for kind in KINDS if (names := plugin.modules(kind)))


def _check(plugin: Plugin, *, as_json: bool) -> int:
    """Hold a plugin against the contracts.

    Raises:
        ConfigError: every problem in it.
    """
    from ftcli.contracts.plugin_contract import examined  # only here: a list imports no declaration

    found = examined(plugin)
    if found.problems:
        raise ConfigError(*found.problems)
    if as_json:
        output.data({**asdict(found), "plugin": plugin.name, "folder": str(plugin.folder)})
        return EXIT_DONE
    output.say(f"no problems: {plugin.name}")
    output.table([(kind, ", ".join(names)) for kind, names in found.declares.items()])
    return EXIT_DONE
