"""What the tests of advice share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.advise.ranking import Advice, advised
from ftcli.advise.wanted import wanted
from ftcli.build import fitting
from ftcli.config.compose import Request


def advice(*overrides: str, goal: str | None = None, hours: float | None = None) -> Advice:
    """The advice on what is typed."""
    return advised(wanted(Request(overrides=overrides), goal=goal, hours=hours), lambda line: None)


def names(found: Advice) -> list[tuple[str, str]]:
    """Method and adapter of each way."""
    return [(way.method.method, way.adapter.adapter) for way in found.ways]


def written(found: Advice, folder: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """The recipes, written into a folder, each with what is typed beside it."""
    files: list[tuple[Path, tuple[str, ...]]] = []
    for way in found.ways:
        file = folder / f"{way.name}.yaml"
        file.write_text(way.recipe(str(folder), file.name), encoding="utf-8")
        files.append((file, way.overrides(str(folder))))
    return files


def planned(*overrides: str, grants: frozenset[str] = frozenset()) -> list[tuple[Any, Any]]:
    """The runs of a request, checked as `ftcli check` does, each with its plan."""
    from ftcli.cli import jobs
    from ftcli.plan.outlook import plan

    job = jobs.resolve(Request(overrides=overrides, grants=grants))
    return [(run, plan(run)) for run in job.runs()]


def require_fits(found: Advice, folder: Path, card: str) -> None:
    """Every way is a recipe that plans for the card, and fits it."""
    assert 1 <= len(found.ways) <= 3
    assert len({(way.method.method, way.adapter.adapter) for way in found.ways}) == len(found.ways)
    for way, (file, own) in zip(found.ways, written(found, folder), strict=True):
        for run, outlook in planned(f"recipe={file}", *own, f"hardware.gpu={card}"):
            verdict = fitting.fit(run, outlook)
            assert verdict is not None
            assert verdict.verdict == "fits", f"{way.name}: {verdict}"
        assert way.trial.memory_gib <= way.wanted.situation.room_gib
        assert way.sources()
        assert way.method.reason in " ".join(way.head(""))
