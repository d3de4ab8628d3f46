"""A plugin with one declaration of each kind, as someone writes it who never looked into ftcli's own tests."""

from __future__ import annotations

from pathlib import Path

FILES: dict[str, str] = {
    "acme_trainer.py": '''"""A trainer that scales the loss of supervised fine-tuning."""

import sys

from ftcli.worker.trainers.sft import SftTrainer


class SteadyTrainer(SftTrainer):
    """Learns half as fast."""

    def compute_loss(self, *args, **kwargs):
        """Half the loss."""
        sys.stderr.write("the steady trainer computes a loss\\n")
        found = super().compute_loss(*args, **kwargs)
        return (found[0] / 2, *found[1:]) if isinstance(found, tuple) else found / 2
''',
    "methods/steady.py": '''"""Supervised fine-tuning that learns half as fast."""

from dataclasses import replace

from ftcli.methods.sft import METHOD as SFT

METHOD = replace(
    SFT, name="steady", summary="Supervised, at half the loss: for rows that you half trust.",
    trainer="acme_trainer:SteadyTrainer", paper="nowhere",
)
''',
    "configs/method/steady.yaml": "# Supervised, at half the loss.\nname: steady\npacking: null\n",
    "peft_methods/fourier.py": '''"""Fourier fine-tuning: each update is a few Fourier terms."""

from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import Default

METHODS = (
    PeftMethod(
        name="fourier", kind="FOURIERFT", summary="A few coefficients of each update's spectrum.",
        paper="Gao et al. 2024, arXiv:2405.03003", config="peft.tuners.fourierft.config:FourierFTConfig",
        defaults={"n_frequency": 100, "target_modules": "all-linear"}, limits={"n_frequency": Limit(low=1)},
        rate_factor=Default(value=100, source="Gao et al. 2024, table 9"),
    ),
)
''',
    "configs/peft/fourier.yaml": (
        "# A few coefficients of each update's spectrum.\n"
        "name: fourier\nn_frequency: 100\ntarget_modules: all-linear\n"
    ),
    "profiles/bench.py": '''"""The CPU of the bench in the corner."""

from ftcli.launch.profile import Profile, one_machine


def plan(wanted, notes):
    """The CPU."""
    return one_machine(wanted, notes, device="cpu")


PROFILE = Profile(name="bench", summary="The bench in the corner.", plan=plan)
''',
    "configs/hardware/bench.yaml": "# The bench in the corner.\ntype: bench\n",
    "formats/exam.py": '''"""Examinations: a task and its solution."""

from ftcli.data.formats.columns import TEXT, Format, Need


def convert(row, roles):
    """The task asks, the solution answers."""
    turn = lambda role, text: [{"role": role, "content": text}]
    return {"prompt": turn("user", row["task_text"]), "completion": turn("assistant", row["solution_text"])}


FORMAT = Format(
    name="exam", kind="pair", doc="An examination's task and its solution.",
    needs=(Need(("task_text",), TEXT), Need(("solution_text",), TEXT)), optional=(), to_canonical=convert,
)
EXAMPLE = (
    {"task_text": "2 + 2?", "solution_text": "4"},
    {
        "prompt": [{"role": "user", "content": "2 + 2?"}],
        "completion": [{"role": "assistant", "content": "4"}],
    },
)
''',
    "rewards/brief.py": '''"""Answers of few tokens."""


def brief(answered, *, most: int = 8) -> float:
    """1 if the answer has at most so many tokens; else 0."""
    return float(answered.num_tokens <= most)


REWARD = brief
EXAMPLE = ({"most": 2}, "two words", {}, 1.0)
''',
    "trackers/slate.py": '''"""A slate: a line of JSON for each line of metrics."""

from ftcli.settings.ownership import ENDPOINT
from ftcli.settings.tracker_declaration import Tracker, TrackerSetting

TRACKER = Tracker(
    name="slate", summary="A line of JSON for each line of metrics.", package="", writer="acme_slate:Slate",
    settings={
        "colour": TrackerSetting(choices=("white", "red"), default="white", text="Of the chalk."),
        "breaks_at": TrackerSetting(type=int, text="The step at which the chalk breaks."),
        "server": TrackerSetting(grant=ENDPOINT, address=True, text="Address of a slate elsewhere."),
    },
)
''',
    "acme_slate.py": '''"""The slate itself."""

import json


class Slate:
    """Writes slate.jsonl."""

    logged = -1

    def __init__(self, run, settings):
        self._settings = settings
        self._file = open(run.folder / "slate.jsonl", "w", encoding="utf-8")
        self._write({"name": run.name, "ledger": run.ledger, "seed": run.config["seed"], **settings})

    def _write(self, line):
        self._file.write(json.dumps(line) + "\\n")
        self._file.flush()

    def log(self, metrics, step, seconds):
        """A line."""
        if step == self._settings["breaks_at"]:
            raise OSError("the chalk broke")
        self._write({"step": step, **metrics})

    def close(self):
        """Put it away."""
        self._file.close()
''',
}  # fmt: skip


def planted(folder: Path, **changes: str) -> Path:
    """The plugin in a folder, with other text in files that are named with `__` for the folders."""
    for name, text in {**FILES, **{key.replace("__", "/") + ".py": text for key, text in changes.items()}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder
