"""Plugins: declarations outside the package, in a folder that the command line names or in an installed package.

A plugin has the folders of KINDS, each with declarations as the package of ftcli beside it has them, and `configs` with
the group files of its choices. The code of a folder runs only where `--plugins DIR` stands on the command line; an
installed package announces its folder by the entry point `ftcli.plugins` and is as trusted as any other. Workers are
told the folders by a variable that no user sets: every command of ftcli writes it anew.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.plugins import plugin_results
from ftcli.core.plugins.plugin_places import CONFIGS, VARIABLE, places

FLAG = "--plugins"
"""The flag that names a folder; a grant, since the folder's code runs."""
KINDS: Mapping[str, str] = {
    "methods": "ftcli.methods",
    "peft_methods": "ftcli.peft_methods",
    "profiles": "ftcli.launch.profiles",
    "formats": "ftcli.data.formats",
    "rewards": "ftcli.rewards",
    "trackers": "ftcli.settings.trackers",
}
"""The folders of a plugin, and the package that its modules join."""
CHECK = "ftcli plugins check DIR says what is wrong with a plugin"


@dataclass(frozen=True)
class Plugin:
    """One plugin: a folder, or the folder of an installed package."""

    name: str
    folder: Path
    package: str = ""
    """Name and version of the installed package; "" for a folder of the command line."""

    @property
    def recorded(self) -> str:
        """What a run keeps of it: of a package its version, of a folder the digest of its files."""
        return f"package {self.package}" if self.package else f"folder {self.digest()}"

    def digest(self) -> str:
        """The digest of its code and group files."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")):
            if path.suffix in (".py", ".yaml") and path.is_file():
                digest.update(str(path.relative_to(self.folder)).encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()

    def modules(self, kind: str) -> dict[str, Path]:
        """Its declarations of one kind, by the name of their modules."""
        return {path.stem: path for path in sorted((self.folder / kind).glob("*.py")) if path.stem != "__init__"}


def activate(folders: Sequence[str]) -> None:
    """Take the folders of a command line, for this process and its workers; none where it names none.

    Raises:
        ConfigError: one is no plugin, two have the same name, or this process has loaded others before.
    """
    given = [os.path.abspath(os.path.expanduser(folder)) for folder in folders]
    for typed, folder in zip(folders, given, strict=True):
        fault = _unfit(folder)
        if fault:
            raise ConfigError(Problem(f"{FLAG} {typed}", fault, "name the folder of a plugin (docs/extending.md)"))
    wanted = os.pathsep.join(dict.fromkeys(given))
    if os.environ.get(VARIABLE, "") != wanted and mounted.cache_info().currsize:
        what = "this process has loaded ftcli with other plugins before"
        raise ConfigError(Problem(FLAG, what, "start a process of its own for each set of plugins"))
    if wanted:
        os.environ[VARIABLE] = wanted
    else:
        os.environ.pop(VARIABLE, None)
    all_plugins.cache_clear()
    all_plugins()


def _unfit(folder: str) -> str:
    """Why a folder is no plugin; "" where it may be one."""
    if not os.path.isdir(folder):
        return "is no folder"
    if os.pathsep in folder:
        return f"has a {os.pathsep!r} in its path, which separates folders"
    kinds = (*KINDS, CONFIGS)
    held = any(os.path.isdir(os.path.join(folder, kind)) for kind in kinds)
    return "" if held else f"holds none of the folders {', '.join(kinds)}"


@cache
def all_plugins() -> tuple[Plugin, ...]:
    """Every plugin of this process: the folders of the command line, then the installed packages.

    Raises:
        ConfigError: two have the same name, or a package names a folder that is not there.
    """
    found = [Plugin(name, Path(folder), package) for name, folder, package in places()]
    for plugin in found:
        if not plugin.package and str(plugin.folder) not in sys.path:
            sys.path.append(str(plugin.folder))  # for the modules that a declaration names; last, to hide none
    for index, plugin in enumerate(found):
        if plugin.name in (other.name for other in found[:index]):
            what = f"there are two plugins of the name {plugin.name}"
            raise ConfigError(Problem(str(plugin.folder), what, "rename a folder, or leave one of them out"))
    return tuple(found)


def words() -> list[str]:
    """The words of a command line that names the same folders again."""
    return [word for plugin in all_plugins() if not plugin.package for word in (FLAG, str(plugin.folder))]


def recorded() -> dict[str, str]:
    """What a run keeps of the plugins that it was composed with, by name."""
    return {plugin.name: plugin.recorded for plugin in all_plugins()}


@cache
def mounted(package: str) -> tuple[str, ...]:
    """The modules that plugins add to a package of declarations, which they join; none of them is imported.

    Raises:
        ConfigError: one has the name of a module that is there already.
    """
    kind = next((kind for kind, into in KINDS.items() if into == package), None)
    if kind is None:
        return ()
    module, names = importlib.import_module(package), list[str]()
    own = {path.stem for folder in [*module.__path__] for path in Path(folder).iterdir()}
    for plugin in all_plugins():
        for name, path in plugin.modules(kind).items():
            if name in own or name in names:
                what = f"{kind}/{name}.py has the name of a module that ftcli or another plugin has"
                raise ConfigError(Problem(str(path), what, "give it, and what it declares, another name"))
            names.append(name)
        if (plugin.folder / kind).is_dir():
            module.__path__.append(str(plugin.folder / kind))
    return tuple(names)


def imported(module: str) -> ModuleType:
    """A module of a package of declarations; the functions that a plugin's declares give what they are to give.

    Raises:
        ConfigError: it is a plugin's, and fails: its file, line and fault.
    """
    try:
        found = importlib.import_module(module)
        plugin = _owner(str(found.__file__))
        if plugin is not None:
            plugin_results.hold(
                found, lambda file: _owner(file) == plugin, lambda where, said: _fault(plugin, where, said)
            )
        return found
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        problem = blame(error)
        if problem is None:
            raise
        raise ConfigError(problem) from None


def blame(error: BaseException) -> Problem | None:
    """The fault of a plugin that an error is: its file and line; None where the error is ftcli's own.

    The code that failed is that of the innermost frame which is ftcli's or a plugin's: whoever called a library.
    """
    ours = f"{Path(__file__).resolve().parents[2]}{os.sep}"
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename and (plugin := _owner(error.filename)) is not None:
        return _fault(plugin, f"{error.filename}:{error.lineno}", f"{type(error).__name__}: {error.msg}")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if (plugin := _owner(frame.filename)) is not None:
            return _fault(plugin, f"{frame.filename}:{frame.lineno}", said)
        if frame.filename.startswith(ours) and frame.filename != __file__:
            return None
    return None


def _owner(file: str) -> Plugin | None:
    """The plugin that a file belongs to."""
    return next((plugin for plugin in all_plugins() if file.startswith(f"{plugin.folder}{os.sep}")), None)


def _fault(plugin: Plugin, where: str, said: str) -> Problem:
    return Problem(where, f"the plugin {plugin.name} failed: {said}", f"mend that line; {CHECK}")
