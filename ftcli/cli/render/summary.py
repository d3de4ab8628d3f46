"""The result of a finished run on one screen, and the commands to run next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.build import gate
from ftcli.cli import output
from ftcli.core.text import shell_word
from ftcli.methods import get_method
from ftcli.peft_methods import peft_method
from ftcli.runs import rundir
from ftcli.runs.measured_attention import AttentionChoice


def _change(pair: Mapping[str, Any] | None, form: str) -> str | None:
    if not pair or pair.get("after") is None:
        return None
    before, after = pair.get("before"), pair["after"]
    return f"{after:{form}}" if before is None else f"{before:{form}} → {after:{form}}"


def summary(run: Path, result: Mapping[str, Any], planned: Mapping[str, float | None] | None = None) -> None:
    """Print the result of a finished run: what was trained, loss and score before and after, and the model's folder.

    Args:
        planned: what its plan expects, shown beside what it took of a GPU.
    """
    score = result.get("score") or {}
    scored = _change(score, ".3f" if score.get("name") == "mean_reward" else ".1%")
    took = output.duration(float(result["seconds"]))
    rows: list[tuple[str, str | None]] = [
        ("trained", f"{result['method']} of {result['model']}, peft={result['peft']}"),
        ("steps", f"{result['steps']} in {took}, {output.count(result.get('tokens_trained'))} tokens"),
        *(("length", each["note"]) for each in result.get("length_changes", ())),
        ("loss", _change({"before": result.get("loss_first"), "after": result.get("loss_last")}, ".4f")),
        ("held-out loss", _change(result.get("eval_loss"), ".4f")),
        ("held-out score", f"{scored}  {score.get('name')} over {score.get('rows')} rows" if scored else None),
        *_of_machine(result, planned or {}),
        *(("note" if each["done"] else "warning", _warning(each)) for each in result.get("warnings") or ()),
        ("model", relative(run / rundir.MODEL)),
    ]
    output.table([(name, text) for name, text in rows if text is not None])


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
        took = output.duration(float(result["seconds"]))
        yield "time", f"{took}; planned about {output.duration(seconds)} of training steps"


def _warning(each: Mapping[str, Any]) -> str:
    """What kept a run from learning, and when."""
    last = each["last_step"]
    steps = f"from step {each['first_step']} " + ("to the end" if last is None else f"to {last}")
    return f"{steps}: {each['message']}"


def relative(path: Path) -> str:
    """The path relative to the current directory if it is inside it, else unchanged."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def next_commands(run: Path) -> list[str]:
    """Suggested next commands. An adapter that cannot be merged is not suggested as a base for another run."""
    name = shell_word(relative(run))
    spec = gate.opened(run)
    method, peft = get_method(spec.choices["method"]), peft_method(spec.peft)
    if method.head == "reward_model":
        return [f"ftcli eval {name}", f"ftcli score {name} FILE"]
    commands = [f"ftcli chat {name} --base", f"ftcli eval {name}"]
    if peft is None or not peft.adapter or not peft.never_merges:
        commands.append(f"ftcli train method={method.next_method} {shell_word(f'model.name_or_path={relative(run)}')}")
    return commands


def follow_up(run: Path) -> None:
    """Print the suggested next commands under a heading."""
    output.say("next")
    for command in next_commands(run):
        output.say(f"  {command}")
