"""`ftcli list`: groups and their choices, recipes, data formats and runs, with one line on each."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ftcli.core import assets
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.untrusted.printable import one_line

NAME = "list"
SUMMARY = "list groups and their choices, recipes and data formats"
ORDER = 50

# Spelled out, because importing them from their rooms would be slow.
GROUPS = ("method", "model", "data", "peft", "quantisation", "hardware", "train")
KINDS = (*GROUPS, "judge", "generator", "recipe", "format", "reward", "tracker", "adapter", "run")
OF_THIS_FOLDER = ("adapter", "run")
"""What is listed only on request: it is not part of ftcli but lies under runs/."""
_ALSO = {
    "dataset": "data", "set": "data", "peft_method": "peft", "tuner": "peft", "quantization": "quantisation",
    "profile": "hardware", "backend": "judge", "training": "train",
}  # fmt: skip


def kind_of_list(word: str) -> str | None:
    """The kind of list that a word names, in the singular or the plural; None if there is none."""
    name = word.lower().replace("-", "_").replace(" ", "_")
    for each in (name, name.removesuffix("s")):
        if each in KINDS:
            return each
        if each in _ALSO:
            return _ALSO[each]
    return None


def _entries(kind: str) -> dict[str, str]:
    others = {"format": _formats, "reward": _rewards, "tracker": _trackers, "adapter": _adapters, "run": _runs}
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


def _trackers() -> dict[str, str]:
    from ftcli.settings.trackers import TRACKERS

    return {name: each.summary for name, each in TRACKERS.items()}


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


def _runs() -> dict[str, str]:
    """The runs and pipelines under runs/, each with what was trained and whether it is finished."""
    from ftcli.runs import rundir

    found = {}
    for path in sorted(rundir.ROOT.glob("*/*"), key=str) if rundir.ROOT.is_dir() else []:
        if rundir.is_run(path) or rundir.is_pipeline(path):
            done = rundir.read_result(path) is not None
            found[str(path)] = "finished" if done else "not finished"
    return found


def _refuse(flags: Sequence[str], words: Sequence[str]) -> None:
    """Report flags that are none of this command, and words that name no group.

    Raises:
        ConfigError: there is one.
    """
    if not flags and not words:
        return
    from ftcli.core.errors import ConfigError, Problem  # only here: dataclasses take longer to import than a list
    from ftcli.core.suggest import suggest

    raise ConfigError(
        *(Problem(flag, "is not a flag of list", "ftcli list [GROUP] [--json]") for flag in flags),
        *(
            Problem(f"ftcli list {word}", f"{word} is not a group", suggest(word, KINDS, "ftcli list "))
            for word in words
        ),
    )


def _without_plugins(argv: Sequence[str]) -> list[str]:
    """The words without `--plugins DIR`, which has been taken already."""
    taken = {index + step for index, word in enumerate(argv) if word == "--plugins" for step in (0, 1)}
    return [word for index, word in enumerate(argv) if index not in taken and not word.startswith("--plugins=")]


def run(argv: Sequence[str]) -> int:
    """List the given groups, or everything but trained adapters and runs."""
    argv = _without_plugins(argv)
    words = [word for word in argv if not word.startswith("-")]
    flags = [word for word in argv if word.startswith("-")]
    if "-h" in flags or "--help" in flags:
        print(f"usage: ftcli list [{'|'.join(KINDS)}] [--json]\n{__doc__}")
        return EXIT_DONE
    _refuse([flag for flag in flags if flag != "--json"], [word for word in words if kind_of_list(word) is None])
    kinds = [kind for kind in map(kind_of_list, words) if kind is not None]
    found = {kind: _entries(kind) for kind in kinds or [kind for kind in KINDS if kind not in OF_THIS_FOLDER]}
    if "--json" in flags:
        import json

        json.dump(found, sys.stdout, indent=2, ensure_ascii=False)
        print()
        return EXIT_DONE
    for kind, entries in found.items():
        print(kind)
        width = max(map(len, entries), default=0)
        for name, line in entries.items():
            print(f"  {one_line(name):<{width}}  {one_line(line)}")
    return EXIT_DONE
