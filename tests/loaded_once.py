"""The worker, which writes down what each load of a model left in each of its processes.

python -m tests.loaded_once train RUN

RUN/loads-RANK.json has for each load whether the weights were absent, and by how many bytes the process's own memory
had grown; RUN/switch-RANK whether transformers would leave out the weights of further models when training begins.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from transformers import Trainer

from ftcli.worker.models.unread_weights import SWITCH, is_unread
from ftcli.worker.training import load


def own_bytes() -> int:
    """Memory that this process alone has, without files that are mapped into it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def watch(run: Path) -> None:
    """Note every load of a model of the run, and how further ones would be loaded."""
    rank, train = os.environ["RANK"], Trainer.train
    loads: list[dict[str, Any]] = []
    own = load.load_model

    def watched(*args: Any, **kwargs: Any) -> Any:
        before = own_bytes()
        model = own(*args, **kwargs)
        loads.append({"absent": is_unread(model), "grown": own_bytes() - before})
        (run / f"loads-{rank}.json").write_text(json.dumps(loads), encoding="utf-8")
        return model

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        (run / f"switch-{rank}").write_text(os.environ.get(SWITCH, ""), encoding="utf-8")
        return train(self, *args, **kwargs)

    load.load_model = watched
    Trainer.train = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    from ftcli.worker.__main__ import leave, main

    watch(Path(sys.argv[2]))
    leave(main(sys.argv[1:]), sys.argv[1:])
