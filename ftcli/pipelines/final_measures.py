"""What a pipeline measures at its end: every policy along the way.

Each figure is kept as soon as it is known, so that a pipeline that is stopped there goes on with the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.build import gate
from ftcli.core import paths
from ftcli.core.untrusted import foreign_files
from ftcli.launch.worker_request import answers
from ftcli.methods import get_method
from ftcli.pipelines.pipeline_request import PipelineRequest
from ftcli.runs import rundir
from ftcli.settings.ownership import REMOTE_CODE

FOUND = "found"
"""The name under which the model that the first policy stage starts from is measured."""
KEPT = "measured.json"
_SCORES, _RULES = "scores", "rules"


def outdate(folder: Path) -> None:
    """Forget the result of a pipeline and what was measured for it, as a stage is about to change."""
    for name in (rundir.RESULT, KEPT):
        (folder / name).unlink(missing_ok=True)


def measured(
    folder: Path,
    wanted: PipelineRequest,
    models: Mapping[str, str],
    stages: Mapping[str, Mapping[str, Any]],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The last policy's metric (`measure`) and rules (`measures`) of every policy, each None where there is none.

    Args:
        models: the model of each stage.
        stages: the result of each stage.

    Raises:
        WorkerFailed: a policy could not be measured, or it was stopped; what is known is kept.
    """
    if not wanted.pipeline.measures:
        return {"measure": None, "measures": None}
    kept = _Kept(folder / KEPT, say)
    return {"measure": _scores(folder, wanted, stages, kept), "measures": _rules(wanted, models, kept)}


class _Kept:
    """Figures by kind and policy, in a file."""

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        self._file, self._say = file, say
        try:
            found = foreign_files.read_json(file)
        except (OSError, ValueError):
            found = None
        self._found: dict[str, dict[str, Any]] = {
            kind: dict(own) if isinstance(found, dict) and isinstance(own := found.get(kind), dict) else {}
            for kind in (_SCORES, _RULES)
        }

    def of(self, kind: str) -> dict[str, Any]:
        """What is known of a kind."""
        return dict(self._found[kind])

    def keep(self, kind: str, policy: str, figure: Any) -> Any:
        """Write down a figure; returns it."""
        self._found[kind][policy] = figure
        rundir.write_json(self._file, self._found)
        return figure

    def begin(self, policy: str) -> None:
        """Say what is measured now."""
        self._say(f"measuring {'the model at the start' if policy == FOUND else policy}")


def _scores(
    folder: Path, wanted: PipelineRequest, stages: Mapping[str, Mapping[str, Any]], kept: _Kept
) -> dict[str, Any] | None:
    """The held-out metric of the last policy and of every policy before it, by name; None if there is none."""
    pipeline, grants = wanted.pipeline, wanted.request.grants
    if not pipeline.measured_by:
        return None
    stage = pipeline.stage(pipeline.measured_by)
    score = stages[stage.name].get("score")
    if not score or score.get("before") is None:
        return None
    gate.opened(folder / stage.name, grants, gate.MEASURES)
    values = [(stage.name, score["after"])]
    below = stage.takes.get("model.name_or_path")
    values.append((below or FOUND, score["before"]))
    known = kept.of(_SCORES)
    while below is not None and not stages[below].get("ready"):
        spec = gate.opened(folder / below)
        if spec.model.init == "random":
            break
        name = pipeline.stage(below).takes.get("model.name_or_path")
        policy = name or FOUND
        if policy not in known:
            kept.begin(policy)
            request = {
                "run": str(folder / stage.name),
                "model": spec.model.name_or_path,
                "revision": spec.model.revision,
                "trust_remote_code": REMOTE_CODE in grants,
            }
            [answer] = answers("eval", request)
            known[policy] = kept.keep(_SCORES, policy, answer["measured"]["score"]["value"])
        below = name
        values.append((policy, known[policy]))
    return {"name": score["name"], "rows": score["rows"], "values": dict(reversed(values))}


def _rules(wanted: PipelineRequest, models: Mapping[str, str], kept: _Kept) -> dict[str, dict[str, float]] | None:
    """Rule-based metrics of each policy's greedy answers to held-out prompts; for the built-in model only."""
    pipeline = wanted.pipeline
    if not pipeline.built_in_measures or not wanted.built_in:
        return None
    policies = [stage for stage in pipeline.stages if stage.method and get_method(stage.method).head == "causal_lm"]
    every = {FOUND: paths.BUILTIN, **{stage.name: models[stage.name] for stage in policies}}
    known = kept.of(_RULES)
    for policy, measures in _measured_by_rules(wanted, {name: every[name] for name in every if name not in known}):
        known[policy] = kept.keep(_RULES, policy, measures)
    return {policy: known[policy] for policy in every}


def _measured_by_rules(wanted: PipelineRequest, models: Mapping[str, str]) -> Iterator[tuple[str, dict[str, float]]]:
    if not models:
        return
    request = {
        "models": models,
        "data": "builtin:prompts",
        "measures": wanted.pipeline.built_in_measures,
        "max_new_tokens": 32,
        "trust_remote_code": False,
    }
    for answer in answers("measure", request):
        yield answer["name"], answer["measures"]
