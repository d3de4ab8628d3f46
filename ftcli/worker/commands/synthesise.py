"""`synthesise STAGE_DIR [--trust-remote-code]`: runs a synthesis stage and writes its result.json last."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.core.errors import DataError, InterruptedRun, Problem
from ftcli.data.formats.columns import SOFT_LABEL
from ftcli.data.row_sets import set_file
from ftcli.runs import rundir
from ftcli.runs.resume_line import resume_with
from ftcli.settings.ownership import REMOTE_CODE
from ftcli.synthesis import early_signs, few_shot, principles, runner
from ftcli.synthesis.backend import Backend, BudgetSpent
from ftcli.synthesis.early_signs import EarlySigns
from ftcli.synthesis.journal import Item, keyed
from ftcli.synthesis.synthesis_spec import FILE, SynthesisSpec
from ftcli.synthesis.tasks import SETTINGS, Generate, Judge, Revise, Task
from ftcli.worker.inference.backends import backend_of
from ftcli.worker.inference.examples import examples_of, prompt_of
from ftcli.worker.process import interruption
from ftcli.worker.process.activity import kept_in, phase, say_above
from ftcli.worker.process.command import Command, Write
from ftcli.worker.process.own_lines import say
from ftcli.worker.process.signals import exclusive

_DOING = {Generate.name: "generating answers", Judge.name: "judging answers", Revise.name: "revising answers"}
_STOPS: dict[str, Any] = {"reached": interruption.reached, "uninterrupted": interruption.finishing}


def make(folder: Path, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """Run the stage whose make.json is in `folder`.

    Args:
        trust_remote_code: whether a model may run its own code; granted by the command line, never by make.json.

    Returns:
        The content of result.json.

    Raises:
        ConfigError: the backend is not available, or the stage is in use.
        DataError: unusable rows, or every item was dropped.
        InterruptedRun: stopped by a signal or a budget; finished items are kept.
    """
    folder = folder.resolve()
    spec = SynthesisSpec.load(folder / FILE)
    began = time.monotonic()
    with interruption.resumable(folder), exclusive(folder, 0), kept_in(folder):
        task = task_of(spec)
        with phase("reading rows"):
            items = keyed(rows_of(spec))
        with phase("loading the model"):
            backend = backend_of(spec.backend, spec.role, {"trust_remote_code": trust_remote_code})
        try:
            earlier = runner.used_by(runner.Journal(folder).done.values())
            signs = EarlySigns(task, say_above)
            with phase(_DOING[spec.task]):
                counts = runner.run(task, items, backend, folder, **_STOPS, look=signs.look)
            with phase("measuring the judge's agreement"):
                agreement = _agreement(task, backend, folder)
        except BudgetSpent as spent:
            what = f"stopped: {spent}; finished items are kept"
            raise InterruptedRun(Problem(str(folder), what, resume_with(folder))) from None
        rows = counts.pop("rows")
        if not rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
            what = f"all {len(items)} items were dropped: {reasons}"
            raise DataError(Problem(str(folder), what, f"see {folder / 'items.jsonl'}"))
        result = {
            "schema": rundir.SCHEMAS[rundir.RESULT],
            "task": spec.task,
            "items": len(items),
            "rows": rows,
            "dropped": dict(counts),
            "backend": _in_all(backend.about(), earlier),
            "seconds": round(time.monotonic() - began, 3),
            "sha256": runner.sha256_of(folder),
            **_position_bias(folder, items),
            **_warnings(folder, task, items),
            **_soft_labels(folder, task),
            **agreement,
        }
        rundir.write_json(folder / rundir.RESULT, result)
        for notice in (*backend.about().get("notices", ()), *_hard(result)):
            say(notice)
        return result


def _in_all(about: dict[str, Any], earlier: Mapping[str, int]) -> dict[str, Any]:
    """What a backend tells of this call, with the requests and tokens of those before it."""
    return {name: value + earlier[name] if name in earlier else value for name, value in about.items()}


def task_of(spec: SynthesisSpec) -> Task:
    """The task with its settings and principles.

    Raises:
        ConfigError: the constitution or the examples are wrong.
    """
    settings = SETTINGS[spec.task](**spec.settings)
    if spec.task == Generate.name:
        return Generate(settings, spec.seed)
    known = principles.named(settings.constitution)
    if spec.task == Judge.name:
        return Judge(settings, spec.seed, known)
    return Revise(settings, spec.seed, known, few_shot.named(settings.examples, known))


def rows_of(spec: SynthesisSpec) -> Iterator[dict[str, Any]]:
    """The input rows: prompts, or another stage's rows as they are now, edited or not."""
    if spec.task != Generate.name:
        yield from _rows_of_stage(Path(spec.rows))
        return
    left = spec.max_rows
    for example in examples_of(set_file(spec.rows, "train")):
        if left == 0:
            return
        left = None if left is None else left - 1
        kept = {name: value for name, value in example.value.items() if name == "answer"}
        yield {"prompt": prompt_of(example), **kept}


def _rows_of_stage(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            sound = "prompt" in row and all(isinstance(each, str) for each in row["answers"])
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            what = "is not a row with a prompt and its answers"
            raise DataError(Problem(f"{file}:{number}", what, 'write {"prompt": …, "answers": ["…", "…"]}'))
        yield row


def _position_bias(folder: Path, items: list[Item]) -> dict[str, Any]:
    """The mean probability that the answer shown first wins; 0.5 is no position bias."""
    journal = runner.Journal(folder)
    values = [journal.done[item.key].get("first_shown_wins") for item in items]
    known = [value for value in values if value is not None]
    return {"first_shown_wins": round(sum(known) / len(known), 4)} if known else {}


def _warnings(folder: Path, task: Task, items: list[Item]) -> dict[str, Any]:
    """What all items together show."""
    journal = runner.Journal(folder)
    found = list(early_signs.signs(task, [journal.done[item.key] for item in items]))
    return {"warnings": found} if found else {}


def _soft_labels(folder: Path, task: Task) -> dict[str, Any]:
    """How many pairs have a soft label, where answers were compared."""
    if not isinstance(task, Judge) or task.settings.mode != "pairwise":
        return {}
    lines = (folder / runner.DATA).read_text(encoding="utf-8").splitlines()
    return {"soft_labels": sum(json.loads(line).get(SOFT_LABEL[0]) is not None for line in lines)}


def _hard(result: dict[str, Any]) -> Iterator[str]:
    """A line on the pairs whose label is hard, because the judge said no more than which answer is better."""
    rows, soft = result["rows"], result.get("soft_labels", result["rows"])
    if soft < rows:
        yield f"{rows - soft} of {rows} pairs have a hard label: the judge gave a verdict and no probability"


def _agreement(task: Task, backend: Backend, folder: Path) -> dict[str, Any]:
    """How often the judge agrees with people, where labelled pairs are given."""
    if not isinstance(task, Judge) or not task.settings.labelled:
        return {}
    pairs = []
    for example in examples_of(set_file(task.settings.labelled, "eval"), ("preference",)):
        chosen, rejected = (example.value[side][-1]["content"] for side in ("chosen", "rejected"))
        pairs.append({"prompt": prompt_of(example), "answers": [chosen, rejected], "chosen": chosen})
    # Every second pair is swapped, so a judge that always gives the same verdict is right half the time.
    for number in range(0, len(pairs), 2):
        pairs[number]["answers"].reverse()
    own = folder / "agreement"
    own.mkdir(exist_ok=True)
    items = keyed(pairs)
    runner.run(task, items, backend, own, **_STOPS)
    journal = runner.Journal(own)
    counts: Counter[str] = Counter()
    for item in items:
        row = journal.done[item.key]["row"]
        right = row is not None and _text(row["chosen"]) == item.row["chosen"]
        counts["right" if right else "tie or dropped" if row is None else "wrong"] += 1
    return {"agreement": {"pairs": len(items), **counts, "share": round(counts["right"] / len(items), 4)}}


def _text(answer: Any) -> str:
    return answer if isinstance(answer, str) else str(answer[-1]["content"])


def _run(folder: Path, flags: tuple[str, ...], _write: Write) -> None:
    make(folder, trust_remote_code=REMOTE_CODE in flags)


COMMAND: Command = _run
