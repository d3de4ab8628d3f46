"""Twenty steps of an advised way, run on this machine in a folder that is removed: what a step takes, and how much
memory."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ftcli.advise.way_text import way_text
from ftcli.advise.ways import Way, row_keys
from ftcli.launch.local import ended
from ftcli.runs import rundir
from ftcli.runs.stop_signals import Stopped, send
from ftcli.settings.ownership import ALLOW_PATH

STEPS = 20
_EVALUATES = ("data.eval_share", "train.per_device_eval_batch_size")
_ALSO = {"train.max_steps": STEPS, "train.save_strategy": "no", "run.score_rows": 0}


def measured_way(way: Way) -> dict[str, Any]:
    """What twenty steps took: `steps`, `took` in seconds, `seconds` of all the way's steps at that speed, `memory_gib`,
    `loss`; or `why` there are none."""
    if way.method.stages:
        return {"why": "its stages make rows for each other, so no twenty steps of it stand for the rest"}
    with tempfile.TemporaryDirectory(prefix="ftcli-") as folder:
        rows = dict.fromkeys(row_keys(way.method), way.wanted.path)
        kept = {name: value for name, value in way.settings.items() if name not in _EVALUATES}
        file, run = Path(folder) / "recipe.yaml", Path(folder) / "run"
        text = way_text(["twenty steps"], way.choices, {**rows, **kept, **_ALSO, "run.dir": str(run)})
        file.write_text(text, encoding="utf-8")
        flags = [*sorted(way.wanted.grants | {ALLOW_PATH})]
        for own in way.wanted.config_dirs:
            flags += ["--config-dir", str(own)]
        words = [f"recipe={file}", *way.wanted.planned_for, *flags, "--json"]
        code, printed = _run([sys.executable, "-m", "ftcli", "train", *words])
        result = rundir.read_result(run) if code == 0 else None
    if result is None:
        return {"why": _fault(printed) or f"the steps ended with exit code {code}"}
    return _figures(way, result)


def _run(command: list[str]) -> tuple[int, str]:
    """Run a command to its end, also after a signal; its exit code and what it printed."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        # In a session of its own, since a second signal would kill it: from the terminal, and from here.
        process = subprocess.Popen(command, start_new_session=True, stdout=printed, stderr=subprocess.DEVNULL)
        try:
            code = ended(process)
        except Stopped as stopped:
            send(process.pid, stopped.number)
            ended(process)
            raise
        printed.seek(0)
        return code, printed.read()


def _fault(printed: str) -> str:
    """The first problem that a command printed as JSON; "" where there is none."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        found = json.loads(printed)["problems"][0]
        return f"{found['where']}: {found['what']}"
    return ""


def _figures(way: Way, result: dict[str, Any]) -> dict[str, Any]:
    steps, took, machine = int(result["steps"]), float(result["seconds"]), result.get("machine") or {}
    memory = machine.get("peak_reserved_gib")
    memory = machine.get("peak_resident_gib") if memory is None else memory
    return {
        "steps": steps,
        "took": took,
        "seconds": took / max(1, steps) * way.trial.steps,
        "memory_gib": memory,
        "loss": [result.get("loss_first"), result.get("loss_last")],
    }
