"""What RLAIF, Constitutional AI and online DPO do to the built-in model, by each way in which their policies learn.

    python benchmarks/feedback.py [--only "method=rlaif method.algorithm=ppo"] [--save]

Each command is run as it stands. Told are, for the model as found and after each training stage, how many of the
likeliest answers to held-out prompts are polite, and how many hold the right answer; how often the judge agrees with
held-out labelled pairs, half of them turned round; and the time of the whole command. A judge below AGREEMENT, answers
that end no politer than the first stage left them, or fewer than LOST of the right answers of that stage end the script
with an error.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import save, versions
from preferences import ftcli

AGREEMENT, LOST = 0.8, 0.8
COMMANDS = (
    "method=rlaif",
    "method=rlaif method.algorithm=ppo",
    "method=rlaif method.algorithm=direct",
    "method=constitutional",
    "method=constitutional method.algorithm=ppo",
    "method=online_dpo",
)


def measured(command: str) -> dict[str, Any]:
    """The pipeline once."""
    with tempfile.TemporaryDirectory() as name:
        run, began = Path(name) / "run", time.monotonic()
        ftcli("train", *command.split(), "hardware=cpu", "hardware.num_threads=1", f"run.dir={run}")
        seconds = time.monotonic() - began
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    made = {name: stage for name, stage in result["stages"].items() if "task" in stage}
    found = {
        "command": command,
        "seconds": round(seconds),
        "measures": result["measures"],
        "agreement": made["judge"]["agreement"] if "judge" in made else None,
        "made": {name: {part: stage[part] for part in ("items", "rows", "dropped")} for name, stage in made.items()},
    }
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=COMMANDS)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = [measured(command) for command in COMMANDS if options.only in (None, command)]
    for row in table:
        _, first, *_, last = row["measures"].values()
        faults = [
            fault
            for fault, found in {
                "a judge that agrees too seldom": (row["agreement"] or {"share": 1.0})["share"] < AGREEMENT,
                "no politer answers": last["polite"] <= first["polite"],
                "fewer right answers": last["right"] < LOST * first["right"],
            }.items()
            if found
        ]
        if faults:
            raise SystemExit(f"{row['command']}: {', '.join(faults)}")
    if options.save and not options.only:
        save("feedback", {"schema": 1, "lost": LOST, "pipelines": table, "versions": versions()})


if __name__ == "__main__":
    main()
