"""A script on the installed TRL, train_trl.py, in our own environment."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from contenders.work import GRPO, Contender, Work

_ROWS = {"sft": "pairs"}
_SCRIPT = Path(__file__).parent / "train_trl.py"


def arguments(work: Work, folder: Path) -> list[str]:
    """The script with a file that says everything."""
    asked = asdict(work) | {"grpo": GRPO, "rows": work.rows[_ROWS.get(work.method, "trl")], "out": folder / "out"}
    (folder / "asked.json").write_text(json.dumps(asked, default=str), encoding="utf-8")
    words = [str(_SCRIPT), str(folder / "asked.json")]
    if work.processes > 1:
        launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(work.processes), "--master_port", "0"]
        return [*launch, *words]
    return words


CONTENDER = Contender(
    "trl",
    "trl",
    frozenset({"sft", "dpo", "kto", "orpo", "reward", "grpo"}),
    arguments,
    settings="its fused head, rows of one length together; packed by bfd, without padding",
    environment={"TRL_EXPERIMENTAL_SILENCE": "1"},
    keys={"orpo": "chosen_input_ids,rejected_input_ids"},
)
