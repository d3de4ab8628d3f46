"""The result of a finished run, by name and text: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.core.paths import relative
from ftcli.core.text import count, duration
from ftcli.evaluations import retention
from ftcli.runs import rundir
from ftcli.runs.measured_attention import AttentionChoice
from ftcli.runs.profiles.profile_file import profile_line


def _change(pair: Mapping[str, Any] | None, form: str) -> str | None:
    if not pair or pair.get("after") is None:
        return None
    before, after = pair.get("before"), pair["after"]
    return f"{after:{form}}" if before is None else f"{before:{form}} → {after:{form}}"


def result_rows(
    run: Path, result: Mapping[str, Any], planned: Mapping[str, float | None] | None = None
) -> list[tuple[str, str]]:
    """The result of a finished run: what was trained, loss and score before and after, and the model's folder.

    Args:
        planned: what its plan expects, told beside what it took of a GPU.
    """
    score = result.get("score") or {}
    scored = _change(score, ".3f" if score.get("name") == "mean_reward" else ".1%")
    took = duration(float(result["seconds"]))
    rows: list[tuple[str, str | None]] = [
        ("trained", f"{result['method']} of {result['model']}, peft={result['peft']}"),
        ("steps", f"{result['steps']} in {took}, {count(result.get('tokens_trained'))} tokens"),
        *(("length", each["note"]) for each in result.get("length_changes", ())),
        ("loss", _change({"before": result.get("loss_first"), "after": result.get("loss_last")}, ".4f")),
        ("held-out loss", _change(result.get("eval_loss"), ".4f")),
        ("held-out score", f"{scored}  {score.get('name')} over {score.get('rows')} rows" if scored else None),
        *(retention.rows(result["retention"]) if result.get("retention") else ()),
        *_of_machine(result, planned or {}),
        ("profile", profile_line(result["profile"]) if result.get("profile") else None),
        *(("note" if each["done"] else "warning", _warning(each)) for each in result.get("warnings") or ()),
        *(("warning", text) for text in failed_trackers(result)),
        ("model", relative(run / rundir.MODEL)),
    ]
    return [(name, text) for name, text in rows if text is not None]


def _of_machine(result: Mapping[str, Any], planned: Mapping[str, float | None]) -> Iterator[tuple[str, str | None]]:
    """Speed of a run without its first steps, and the kernel that it chose; on a GPU also plan beside reality."""
    machine = result.get("machine") or {}  # runs of earlier versions have none
    if speed := machine.get("tokens_per_second"):
        share = f", {machine['mfu']:.0%} of the peak rate of {machine['device']}" if machine.get("mfu") else ""
        yield "speed", f"{speed:,.0f} tokens/s{share}"
    if measured := machine.get("attention_measured"):
        yield "attention", f"{measured['kernel']}, {AttentionChoice(**measured).text}"
    if machine.get("peak_reserved_gib") is None:
        return
    taken = f"{machine['peak_reserved_gib']:.1f} GiB at its peak, {machine['peak_allocated_gib']:.1f} of them in use"
    memory, seconds = planned.get("memory_gib"), planned.get("seconds")
    yield "memory", f"{taken}; planned {memory:.1f}" if memory else taken
    if seconds:
        took = duration(float(result["seconds"]))
        yield "time", f"{took}; planned about {duration(seconds)} of training steps"


def failed_trackers(result: Mapping[str, Any]) -> list[str]:
    """What is said of each tracker that did not keep the whole curve."""
    return [
        f"the tracker {name} kept the curve to step {each['last_step']}: {each['failed']}"
        for name, each in (result.get("trackers") or {}).items()
        if "failed" in each
    ]


def _warning(each: Mapping[str, Any]) -> str:
    """What kept a run from learning, and when."""
    last = each["last_step"]
    steps = f"from step {each['first_step']} " + ("to the end" if last is None else f"to {last}")
    return f"{steps}: {each['message']}"
