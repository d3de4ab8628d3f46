"""Where the group files and recipes are: inside the installed package, or beside it in a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from ftcli.core.plugins.plugin_places import config_folders

_PACKAGE = Path(__file__).resolve().parent.parent

CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
RECIPES = _PACKAGE / "shipped_recipes" if (_PACKAGE / "shipped_recipes").is_dir() else _PACKAGE.parent / "recipes"


def first_comment(path: Path) -> str:
    """The first line of a YAML file without its `#`: what it is for."""
    with open(path, encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip()


def choices(group: str, *, extra: tuple[Path, ...] = ()) -> dict[str, Path]:
    """The choices of a group by name, of plugins too; files in the user's own config folders override shipped ones."""
    files: dict[str, Path] = {}
    for root in (CONFIGS, *map(Path, config_folders()), *extra):
        files.update(_yaml_files(root / group))
    return files


def recipes() -> dict[str, Path]:
    """The shipped recipes by name."""
    return _yaml_files(RECIPES)


def _yaml_files(folder: Path) -> dict[str, Path]:
    # Names are sorted as text: comparing a hundred paths takes longer than reading the folder.
    names = sorted(name for name in os.listdir(folder) if name.endswith(".yaml")) if folder.is_dir() else []
    return {name.removesuffix(".yaml"): folder / name for name in names}
