"""The stages of the card check in order of worth, and one of them as a process of its own.

python -m tests.gpu.stage NAME FOLDER DEVICE TINY    prints what it found as one line of JSON, its last
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gpu import stages_learning, stages_memory, stages_resume, stages_speed, stages_start
from tests.gpu.bench import Bench, Failed, Findings

Run = Callable[[Bench, Findings], None]


@dataclass(frozen=True)
class Stage:
    """One question to a card, and the time that it may take."""

    run: Run
    needs_seconds: int
    """estimate: what it takes on a recent data-centre card; it is not begun with less than that left."""
    budget_seconds: int
    """After which it is ended."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.run.__name__


_ALL = (
    Stage(stages_start.doctor, 3, 45),
    Stage(stages_start.models, 25, 150),
    Stage(stages_start.demo, 10, 75),
    Stage(stages_learning.moves, 15, 90),
    Stage(stages_memory.plans, 60, 180),
    Stage(stages_speed.throughput, 40, 120),
    Stage(stages_speed.attention, 40, 120),
    Stage(stages_resume.resume, 20, 90),
    Stage(stages_memory.measuring, 30, 100),
    Stage(stages_memory.exhausted, 15, 75),
    Stage(stages_learning.fp16, 12, 75),
    Stage(stages_learning.packed, 8, 60),
    Stage(stages_learning.positions, 8, 45),
    Stage(stages_resume.streams, 15, 80),
)
STAGES = {stage.name: stage for stage in _ALL}
"""Every stage by name, the most telling first."""


def outcome(run: Run, bench: Bench) -> dict[str, Any]:
    """Run a stage: its status, figures, and what is wrong or was not judged."""
    found, why = Findings(bench.on_card), ""
    try:
        run(bench, found)
        status = "failed" if found.faults else "passed"
        why = "; ".join(found.faults)
    except Failed as failed:
        status, why = "failed", "; ".join([*found.faults, str(failed)])
    except Exception:
        status, why = "failed", traceback.format_exc(limit=-4)
    return {"status": status, "why": why, "not_judged": found.unjudged, "figures": found.figures}


def main(name: str, folder: str, device: str, small: str) -> None:
    """Run one stage and print what it found."""
    bench = Bench(Path(folder).resolve(), device, small == "1")
    print(json.dumps(outcome(STAGES[name].run, bench)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
