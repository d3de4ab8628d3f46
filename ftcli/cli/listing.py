"""`ftcli list`: groups and their choices, recipes and data formats, with one line each on when to use it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ftcli.core import assets
from ftcli.core.errors import EXIT_DONE, ConfigError, Problem

NAME = "list"
SUMMARY = "list groups and their choices, recipes and data formats"
ORDER = 50

# Spelled out, because importing them from their rooms would be slow.
GROUPS = ("method", "model", "data", "peft", "quantisation", "hardware", "train")
KINDS = (*GROUPS, "judge", "generator", "recipe", "format", "reward", "adapter")


def _entries(kind: str) -> dict[str, str]:
    others = {"format": _formats, "reward": _rewards, "adapter": _adapters}
    if kind in others:
        return others[kind]()
    paths = assets.recipes() if kind == "recipe" else assets.choices(kind)
    return {name: assets.first_comment(path).split("   ftcli ")[0] for name, path in paths.items()}


def _formats() -> dict[str, str]:
    from ftcli.data.formats.registry import FORMATS

    return {name: form.doc.strip().splitlines()[0] for name, form in FORMATS.items()}


def _rewards() -> dict[str, str]:
    from ftcli.rewards.rules import REWARDS

    return {name: str(reward.__doc__).splitlines()[0] for name, reward in REWARDS.items()}


def _adapters() -> dict[str, str]:
    """The trained adapters under runs/, each with its PEFT method and base model."""
    from ftcli.models import sources
    from ftcli.runs import rundir

    runs = sorted(rundir.ROOT.glob("*/*"), key=str) if rundir.ROOT.is_dir() else []
    found = {}
    for path in runs:
        source = sources.model_source(str(path)) if rundir.is_run(path) else None
        if source is not None and source.is_adapter and source.folder is not None:
            [kind, *_] = sources.adapter_kinds(source)
            found[str(path)] = f"{kind} on {sources.base_of(source.folder)}"
    return found


def run(argv: Sequence[str]) -> int:
    """List the given groups, or everything but trained adapters."""
    words = [word for word in argv if not word.startswith("-")]
    flags = [word for word in argv if word.startswith("-")]
    if "-h" in flags or "--help" in flags:
        print(f"usage: ftcli list [{'|'.join(KINDS)}] [--json]\n{__doc__}")
        return EXIT_DONE
    if unknown := [flag for flag in flags if flag != "--json"]:
        raise ConfigError(Problem(unknown[0], "is not a flag of list", "ftcli list [GROUP] [--json]"))
    for word in words:
        if word not in KINDS:
            from ftcli.core.suggest import suggest

            raise ConfigError(
                Problem(f"ftcli list {word}", f"{word} is not a group", suggest(word, KINDS, "ftcli list "))
            )
    found = {kind: _entries(kind) for kind in words or [kind for kind in KINDS if kind != "adapter"]}
    if "--json" in flags:
        import json

        json.dump(found, sys.stdout, indent=2, ensure_ascii=False)
        print()
        return EXIT_DONE
    for kind, entries in found.items():
        print(kind)
        width = max(map(len, entries), default=0)
        for name, line in entries.items():
            print(f"  {name:<{width}}  {line}")
    return EXIT_DONE
