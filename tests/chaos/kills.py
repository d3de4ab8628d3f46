"""kill -9 at any moment, then --resume: weights, rows and results are those of the run that nobody killed.

    python -m tests.chaos.kills JOURNAL [--count N] [--kinds KIND,KIND] [--save]

Each kind of run is trained once without a kill; then cases of it are killed in a save, at the rename that ends one,
while rows are made, or anywhere, and resumed. Commands of one process are forked from a process that has the libraries
in memory (tests/warm.py): they differ in nothing that a kill meets. Those of several processes, and a few others, start
as a user starts them. A case that passed with the same code is not run again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ftcli.runs import rundir
from ftcli.synthesis.runner import DATA
from tests.chaos import journal, victims
from tests.chaos.victims import GROUP, LAUNCHER, PARENT, WORKER, Family
from tests.ranks import TIMEOUT_SECONDS
from tests.warm import Warm, possible

SEED = 20261130
RUN = "run"
_STEP_SECONDS, _START_SECONDS = 0.2, {False: 3.0, True: 10.0}
"""Within which a moment is drawn after a line of metrics, and before the first; a process that is forked starts sooner.
"""
MOST_TRIES = 4
"""A command may end before its moment comes: the moment is drawn again then."""
_COMMON = ("hardware=cpu", "hardware.num_threads=1", "run.score_rows=0", "train.eval_strategy=no", f"run.dir={RUN}")
_SHORT = ("train.learning_rate=3e-3", "train.max_steps=12", "train.save_steps=2", "data.max_rows=40",
          "train.per_device_train_batch_size=2", "train.logging_steps=1")  # fmt: skip
_LORA = ("peft=lora", "peft.lora_dropout=0.1")
_ENDED = "method.rewards={ended: 1, length: {weight: 1, most: 4}}"
_FEEDBACK = ("train.save_strategy=steps", "train.save_steps=2", "stages.assistant.train.max_steps=4",
             "stages.sample.data.max_rows=12", "stages.judge.make.least_margin=0.0",
             "stages.dpo.train.max_steps=4")  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of run."""

    words: tuple[str, ...]
    cases: int
    """How many of the cases are of it."""
    saves: int = 6
    """How many checkpoints it writes."""
    models: int = 1
    making: tuple[str, ...] = ()
    """The stages that make rows."""
    launched: bool = False
    """Whether a launcher starts several processes."""


KINDS = {
    "lora": Kind((*_LORA, *_SHORT), 26),
    "full": Kind(_SHORT, 24),
    "packed": Kind((*_LORA, "method.packing=true", *_SHORT), 20),
    "accumulated": Kind((*_LORA, "train.gradient_accumulation_steps=4", *_SHORT), 20),
    "dpo": Kind(("method=dpo", *_LORA, *_SHORT), 20),
    "kto": Kind(("method=kto", *_LORA, *_SHORT, "data.max_rows=16", "train.max_steps=8"), 14, saves=4),
    "ppo": Kind(
        ("method=ppo", *_LORA, *_SHORT, "train.save_steps=3", "train.gradient_accumulation_steps=2",
         "method.num_mini_batches=2", "method.num_ppo_epochs=2", "method.max_new_tokens=6", _ENDED), 20, saves=4,
    ),
    "grpo": Kind(
        ("method=grpo", *_LORA, *_SHORT, "train.max_steps=8", "method.num_generations=2",
         "method.max_completion_length=6", _ENDED), 16, saves=4,
    ),
    "rlhf": Kind(
        ("method=rlhf", "train.save_strategy=steps", "train.save_steps=3", "stages.sft.train.max_steps=6",
         "stages.reward.train.max_steps=6", "stages.ppo.train.max_steps=6"), 10, saves=6, models=3,
    ),
    "online_dpo": Kind(
        ("method=online_dpo", "method.rounds=1", *_FEEDBACK, "stages.sft.train.max_steps=4"), 6, saves=6, models=3,
        making=("sample", "judge"),
    ),
    "constitutional": Kind(
        ("method=constitutional", *_FEEDBACK, "stages.helpful.train.max_steps=4", "stages.answers.data.max_rows=8",
         "stages.revised.train.max_steps=4"), 6, saves=8, models=4, making=("answers", "revisions", "sample", "judge"),
    ),
    "two_processes": Kind((*_LORA, *_SHORT, "hardware.num_processes=2"), 10, launched=True),
    "fsdp2": Kind((*_SHORT, "hardware.num_processes=2", "train.fsdp=true"), 8, launched=True),
}  # fmt: skip
TIMES = frozenset({"seconds", "tokens_per_second", "peak_resident_gib", "peak_allocated_gib", "peak_reserved_gib"})
"""What differs in result.json between any two runs."""
SPENT = frozenset({"requests", "prompt_tokens", "answer_tokens"})
"""What a stage that makes rows has asked for in all: more where an item was under way when it was killed."""


@dataclass(frozen=True)
class Case:
    """One kill."""

    kind: str
    number: int
    moment: str
    target: str
    real: bool
    """Started as a user starts it."""

    @property
    def name(self) -> str:
        """The same in every call."""
        return f"{self.kind}-{self.number}"


@dataclass(frozen=True, kw_only=True)
class Killed(journal.Outcome):
    """What came of a kill."""

    moment: str
    target: str
    in_save: bool
    """Whether it left a folder that was being written."""
    left: list[str]
    tries: int
    end_seconds: float
    """From the kill to the end of the last process."""


def plan() -> list[Case]:
    """All cases, of all kinds in turn."""
    cases = [_case(name, number) for name, kind in KINDS.items() for number in range(kind.cases)]
    return sorted(cases, key=lambda case: (case.number / KINDS[case.kind].cases, case.kind))


def _case(name: str, number: int) -> Case:
    """Most in a save; the targets in turn, in a turn of another length, and a parent seldom: a save may outlive it."""
    kind = KINDS[name]
    moments = ("save", "save", "any", "rename", "save", "model", "save", "any", "save", "rename")
    if kind.making:
        moments = ("making", "save", "making", "any", "making", "save")
    targets = (WORKER, GROUP, WORKER, PARENT, GROUP, WORKER, GROUP)
    if kind.launched:
        targets = (WORKER, GROUP, LAUNCHER, WORKER, PARENT, GROUP, LAUNCHER)
    moment = moments[number % len(moments)]
    real = kind.launched or (moment == "any" and number % 10 == 7)
    return Case(name, number, moment, targets[number % len(targets)], real)


def moment_of(case: Case, chance: random.Random, lines: int) -> victims.Moment:
    """The moment of a case, drawn anew at each call.

    Args:
        lines: how many lines of metrics the whole run has.
    """
    kind = KINDS[case.kind]
    if case.moment == "save":
        return victims.save(chance.randint(1, kind.saves), chance.randint(0, 14))
    if case.moment == "rename":
        return victims.rename(chance.randint(1, kind.saves))
    if case.moment == "model":
        return victims.model(chance.randint(1, kind.models), chance.randint(0, 5))
    if case.moment == "making":
        return victims.making(chance.choice(kind.making), chance.choice(victims.MADE))
    after = chance.randint(0, lines)
    return victims.logged(after, chance.uniform(0, _STEP_SECONDS if after else _START_SECONDS[case.real]))


class Bench:
    """Where cases are carried out, and the runs that nobody killed.

    Args:
        warm: forks the commands of one process; None: all start as a user starts them.
        whole: runs that nobody killed, by kind, where they were made before.
    """

    def __init__(self, place: Path, warm: Warm | None, whole: Mapping[str, Path] = MappingProxyType({})) -> None:
        self._place, self._warm = place, warm
        self._whole = dict(whole)

    def folder(self, name: str) -> Path:
        """An empty folder of that name."""
        folder = self._place / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def uninterrupted(self, kind: str) -> Path:
        """The run of a kind that nobody killed; made once."""
        if kind not in self._whole:
            folder = self.folder(f"{kind}-whole")
            code, said = self.command(("train", *words_of(kind)), folder, real=KINDS[kind].launched)
            if code:
                raise RuntimeError(f"{kind} fails without a kill: exit {code}\n{said}")
            self._whole[kind] = folder / RUN
        return self._whole[kind]

    def command(self, words: Sequence[str], folder: Path, *, real: bool = False) -> tuple[int, str]:
        """The exit code of a command, and what it said."""
        with victims.start(words, folder, None if real else self._warm) as parent:
            code = parent.wait(timeout=TIMEOUT_SECONDS)
            return code, victims.said(parent, folder)

    def carry_out(self, case: Case) -> Killed:
        """Kill a run, resume it, and compare it with the one that nobody killed."""
        whole = self.uninterrupted(case.kind)
        chance, begun = random.Random(f"{SEED}:{case.name}"), time.monotonic()
        faults, lines = list[str](), victims.num_logged(whole)
        end_seconds, tries = None, 0
        while end_seconds is None and tries < MOST_TRIES:
            folder, tries = self.folder(case.name), tries + 1
            end_seconds = self._killed(case, folder, moment_of(case, chance, lines), chance, faults)
        if end_seconds is None:
            faults.append("the moment never came")
        run = folder / RUN
        left = [str(each.relative_to(run)) for each in victims.underway(run)]
        again = ("train", "--resume", RUN) if _begun(run) else ("train", *words_of(case.kind))
        code, said = self.command(again, folder, real=KINDS[case.kind].launched)
        faults += [f"exit {code} of {' '.join(again)}: {said[-1500:]}"] if code else differences(run, whole)
        faults += [f"{each.name} is left" for each in victims.underway(run)]
        if not faults:
            shutil.rmtree(folder)
        return Killed(
            case=case.name, kind=case.kind, faults=faults, seconds=round(time.monotonic() - begun, 1),
            moment=case.moment, target=case.target, in_save=bool(left), left=left, tries=tries,
            end_seconds=round(end_seconds or 0.0, 2),
        )  # fmt: skip

    def _killed(
        self, case: Case, folder: Path, moment: victims.Moment, chance: random.Random, faults: list[str]
    ) -> float | None:
        """Start a run and kill it at the moment; seconds until all of it had ended, None where it ended before."""
        with victims.start(("train", *words_of(case.kind)), folder, None if case.real else self._warm) as parent:
            family = Family(parent)
            come = victims.wait_for(moment, folder / RUN, parent, family)
            at = time.monotonic()
            if come:
                family.kill(case.target, chance)
            parent.wait(timeout=TIMEOUT_SECONDS)
            faults += family.settle()
        return time.monotonic() - at if come else None


def words_of(kind: str) -> tuple[str, ...]:
    """The settings of a kind."""
    return (*KINDS[kind].words, *_COMMON)


def _begun(run: Path) -> bool:
    """Whether there is anything to resume: one killed before that is started again, and nothing is in the way."""
    return rundir.is_run(run) or rundir.is_pipeline(run)


# --- comparing -----------------------------------------------------------------------------------------------


def differences(run: Path, whole: Path) -> list[str]:
    """How the trained models, the rows that were made and the results differ from those of another run."""
    ours, theirs = (contents(each) for each in (run, whole))
    return [f"{name} differs" for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]


def contents(run: Path) -> dict[str, Any]:
    """What must be the same in two runs of the same settings, by file."""
    found: dict[str, Any] = {}
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run).as_posix()
        if file.name == rundir.RESULT:
            found[name] = _timeless(json.loads(file.read_text(encoding="utf-8")), str(run.parent.resolve()))
        elif file.parent.name == rundir.MODEL or (file.name == DATA and file.is_file()):
            found[name] = file.read_bytes()
    return found


def _timeless(value: Any, place: str) -> Any:
    """A result without its times, and without the place in which it was made."""
    if isinstance(value, dict):
        return {key: _timeless(each, place) for key, each in value.items() if key not in TIMES | SPENT}
    if isinstance(value, list):
        return [_timeless(each, place) for each in value]
    return value.replace(place, "") if isinstance(value, str) else value


# --- the command ---------------------------------------------------------------------------------------------


@contextmanager
def at_bench(path: Path) -> Iterator[Bench]:
    """A bench in a temporary folder.

    Args:
        path: of the journal, beside which our modules are kept compiled.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / "warm").mkdir()
        warm = Warm(place / "warm", path.absolute().parent / "compiled") if possible() else None
        try:
            yield Bench(place, warm)
        finally:
            if warm is not None:
                warm.close()


def main() -> int:
    """Carry out the cases that the journal does not hold yet."""
    options = journal.arguments(__doc__ or "", sum(kind.cases for kind in KINDS.values()))
    wanted = {case.name: case for case in plan() if not options.kinds or case.kind in options.kinds.split(",")}
    log = journal.Journal(options.journal, journal.code_digest("kills.py", "victims.py"))
    with at_bench(options.journal) as bench:
        found = log.through([*wanted][: options.count], lambda name: bench.carry_out(wanted[name]))
    return journal.told("kills", log, found, "in_save", save=options.save)


if __name__ == "__main__":
    os.chdir(journal.REPOSITORY)
    sys.exit(main())
