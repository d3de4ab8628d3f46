"""A foreign file → draft → recipe and account."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcli.config.conversion import common, recipe_text, rows, table
from ftcli.config.conversion.account import Account, Entry
from ftcli.config.conversion.detect import detected
from ftcli.config.conversion.draft import UNTOUCHED, Draft
from ftcli.config.conversion.foreign_file import read
from ftcli.config.credentials import held_by
from ftcli.config.importers import all_importers
from ftcli.core.declarations import declaration, names_in
from ftcli.core.paths import home_expanded

_PATHS = (*rows.ROWS, "data.mix", *rows.MODELS)
_TOOLS = "ftcli.config.conversion.tools"


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A recipe, and what became of each key."""

    tool: str
    title: str
    file: str
    draft: Draft

    @property
    def recipe(self) -> str:
        """The text of the recipe."""
        return recipe_text.text(self.draft, self.title)

    def recipe_at(self, folder: Path) -> str:
        """The text of the recipe for a file in a folder: what is on this machine is named from there."""
        draft = self.draft
        placed = {
            key: _placed(value, draft.file.path, folder) for key, value in draft.settings.items() if key in _PATHS
        }
        return recipe_text.text(replace(draft, settings={**draft.settings, **placed}), self.title)

    def outside(self, folder: Path) -> list[str]:
        """The rows and models of this machine that lie outside a folder; links are followed to their end."""
        draft, home, found = self.draft, folder.resolve(), list[str]()
        for each in (draft.settings[key] for key in _PATHS if key in draft.settings):
            for path in _texts(_placed(each, draft.file.path, folder)):
                far = path.startswith(("..", "/", "~")) or not (home / path).resolve().is_relative_to(home)
                found += [path] if far else []
        return found

    def setting_at(self, line: int) -> str | None:
        """The setting on a line of the recipe."""
        group, found = "", None
        for row in self.recipe.splitlines()[:line]:
            if match := re.match(r"(\w+):(.*)", row):
                group, found = match[1], match[1] if match[2] else None
            elif match := re.match(r"  (\w+):", row):
                found = f"{group}.{match[1]}"
        return found if found in self.draft.settings else None

    @property
    def account(self) -> Account:
        """Every key of the file in one list."""
        draft = self.draft
        found = [draft.entries[key.path] for key in draft.keys]
        again = "the same key stands further down, and wins there without a word"
        found += [
            Entry(list="silent", key=each.key, line=each.line, before=each.value, why=again)
            for each in draft.file.overwritten
        ]
        return Account(
            entries=tuple(sorted(found, key=lambda each: each.line)),
            written_out=tuple(each for each in draft.written_out if each[0] in draft.settings),
            by_default=tuple(draft.by_default),
            unsupported=tuple(draft.unsupported),
            waits_for=tuple(draft.waits_for),
        )

    def refuse(self, setting: str, why: str) -> bool:
        """Take a setting out of the recipe, since ftcli refuses it; False if it is none of the recipe's."""
        draft = self.draft
        if setting not in draft.settings:
            return False
        del draft.settings[setting]
        for path, entry in draft.entries.items():
            if setting == entry.after.partition("=")[0] or setting in entry.after.split():
                kept = path in draft.untouched
                which, said = ("mapped", UNTOUCHED) if kept else ("not_carried", why)
                draft.entries[path] = replace(entry, list=which, after="", why=said)
        return True

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        return {"tool": self.tool, "file": self.file, "recipe": self.recipe, "account": self.account.to_data()}


def _placed(value: Any, file: Path, folder: Path) -> Any:
    """Paths of files that are there, as they are named from a folder."""
    if isinstance(value, list):
        return [_placed(each, file, folder) for each in value]
    if isinstance(value, dict):
        return {key: _placed(each, file, folder) if key in ("path", *value) else each for key, each in value.items()}
    if not isinstance(value, str) or not rows.is_local(value):
        return value
    there = rows.on_this_machine(value, file)
    return os.path.relpath(there, folder.resolve()) if there is not None else value


def convert(path: str | Path, tool: str | None = None) -> Conversion:
    """Read a configuration of another tool.

    Args:
        tool: which it is; None recognises it.

    Raises:
        ConfigError: it cannot be read, is no training, or its tool is unknown or not sure.
    """
    file = read(home_expanded(str(path)), str(path))
    name = detected(file, tool)
    importer = all_importers()[name]
    draft = Draft(name, importer, file)
    module = f"from_{name}" if f"from_{name}" in names_in(_TOOLS) else None
    if module is not None:
        _handler(module, "convert")(draft)
    for key in draft.keys:
        if key.inside and key.path not in draft.entries:
            table.apply_mapping(draft, key)
    for key in draft.keys:
        if key.path not in draft.entries and not key.inside:
            table.apply(draft, key)
    if module is not None:  # after the file's own values: a default fills what they leave open
        _handler(module, "defaults")(draft)
    common.per_set(draft)
    rows.whole_files(draft)
    rows.leave_open(draft)
    common.floats(draft)
    _no_reward(draft)
    _holders(draft)
    found = Conversion(tool=name, title=importer.title, file=str(path), draft=draft)
    for setting, value in list(draft.settings.items()):
        if held := held_by(value):
            found.refuse(setting, f"refused: it holds {held}, which no recipe keeps")
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) else []


def _handler(module: str, name: str) -> Callable[[Draft], None]:
    found: Callable[[Draft], None] = declaration(_TOOLS, module, name)
    return found


def _no_reward(draft: Draft) -> None:
    """A method that samples answers learns nothing without a reward or a teacher."""
    needs = {"grpo": "method.rewards", "rloo": "method.rewards", "distillation": "method.teacher_model"}
    wanted = needs.get(draft.choices["method"])
    named = {"method.rewards", "method.reward_model", "method.teacher_model", "method.judge"} & set(draft.settings)
    if wanted is not None and not named and not draft.unsupported:
        draft.unsupported.append(f"what it learns from is not in the file: name it with {wanted}")


def _holders(draft: Draft) -> None:
    """A key that holds keys is where the best of them is: it has no value of its own."""
    for key in reversed(draft.keys):
        if key.inside and key.path not in draft.entries:
            below = [
                draft.entries[each.path].list
                for each in draft.keys
                if len(each.path) > len(key.path) and each.path[: len(key.path)] == key.path
            ]
            best = next(name for name in ("mapped", "changed", "not_carried", "silent") if name in below)
            draft._enter(best, key, "", "see the keys inside it")
