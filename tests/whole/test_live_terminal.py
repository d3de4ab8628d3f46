"""Trainings on a real terminal, as a person sees them: run, stopped, failed, as a pipeline and as jobs of a sweep."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftcli.core.exit_codes import EXIT_DONE, EXIT_INTERRUPTED
from ftcli.runs import rundir
from ftcli.runs.worker_records import read_phases
from tests.terminal import Terminal
from tests.warm import Command, Warm
from tests.whole.conftest import TIMEOUT_SECONDS, environment

pytestmark = pytest.mark.slow

SMALL = (
    "hardware=cpu", "hardware.num_threads=1", "model=tiny", "data.max_rows=24", "data.max_eval_rows=4",
    "run.score_rows=2", "train.logging_steps=1", "peft=lora",
)  # fmt: skip
STEPS = ("train.max_steps=4", "train.per_device_train_batch_size=2")
Start = Callable[..., "tuple[Terminal, Command]"]


@pytest.fixture
def start(warm: Warm | None, tmp_path: Path) -> Iterator[Start]:
    """Starts a command on a terminal."""
    if warm is None:
        pytest.skip("terminals are given to forks")
    with ExitStack() as stack:

        def on_terminal(*words: str, columns: int = 100, echo: bool = False) -> tuple[Terminal, Command]:
            terminal = Terminal(columns, echo=echo)
            kept = {key: value for key, value in environment().items() if key not in ("CI", "NO_COLOR", "COLUMNS")}
            env = {**kept, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
            return terminal, stack.enter_context(warm.start(words, tmp_path, env, terminal=terminal.path))

        yield on_terminal


def phases(lines: list[str]) -> list[str]:
    """The phases whose bars stand on the screen."""
    return [found[1] for line in lines if (found := re.match(r"(\S.*?) {2,}━", line))]


@pytest.mark.parametrize("columns", [64, 120])
def test_a_run_leaves_each_of_its_phases_and_its_result(start: Start, tmp_path: Path, columns: int) -> None:
    terminal, command = start("train", *SMALL, *STEPS, "run.dir=run", columns=columns)
    assert command.wait(TIMEOUT_SECONDS) == EXIT_DONE
    found = terminal.shown()
    order = [
        "preparing rows", "loading the rewards", "loading the model", "loading the reference", "preparing the trainer",
        "measuring before training", "training", "saving the model", "measuring after training",
    ]  # fmt: skip
    # What was over at once leaves no bar; which that is, the machine decides.
    assert phases(found) == [name for name in order if name in phases(found)]
    assert "training" in phases(found)
    training = next(place for place, line in enumerate(found) if line.startswith("training "))
    assert "4/4 steps" in found[training]
    assert found[training + 1].startswith("  loss ")
    kept = read_phases(tmp_path / "run")
    assert kept is not None
    assert kept.now == ""
    assert [each.name for each in kept.over if not each.within and each.name in order] == order
    assert {"preparing to train", "evaluating"} <= {each.name for each in kept.over if each.within}
    assert any(line.startswith("  phases ") and "training " in line for line in found)
    assert "  trained         sft of builtin:tiny, peft=lora" in found
    assert not any(line.startswith("step ") for line in found)
    log = (tmp_path / "run" / rundir.LOG).read_text(encoding="utf-8")
    assert [line.split("  ")[0] for line in log.splitlines() if line.startswith("step ")][:4] == [
        f"step {step}/4" for step in range(1, 5)
    ]


def test_ctrl_c_stops_with_a_checkpoint_and_its_messages_are_whole_lines(start: Start, tmp_path: Path) -> None:
    long = ("train.max_steps=100000", "train.per_device_train_batch_size=2", "train.eval_strategy=no")
    terminal, command = start("train", *SMALL, *long, "run.dir=run", echo=True)
    # A fast machine does several steps between two pictures: any count but none is one that has begun.
    terminal.until(lambda lines: any(re.search(r"training .* [1-9][\d,]*/100,000 steps", line) for line in lines))
    terminal.type("\x03")
    assert command.wait(TIMEOUT_SECONDS) == EXIT_INTERRUPTED
    found = terminal.shown()
    message = "SIGINT: stopping (a second signal stops at once, and loses what no checkpoint has)"
    assert message in found
    behind = found[found.index(message) + 1 :]
    assert [line for line in behind if "━" in line] == []
    assert "stopped by SIGINT" in " ".join(behind)
    assert "resume with: ftcli train --resume " in behind[-1]


def test_an_error_is_the_last_that_stands_on_the_screen(start: Start, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def fails(prompts, completions, **_):\n    raise LookupError('no answer')\n")
    terminal, command = start(
        "train", "method=grpo", "method.reward_functions={rewards.py:fails: 1}", "method.num_generations=2", *SMALL,
        *STEPS, "run.dir=run",
    )  # fmt: skip
    assert command.wait(TIMEOUT_SECONDS) not in (EXIT_DONE, EXIT_INTERRUPTED)
    found = terminal.shown()
    told = next((place for place, line in enumerate(found) if "no answer" in line), None)
    assert told is not None, found
    assert not any("━" in line for line in found[told:])


def test_jobs_of_a_sweep_draw_one_after_the_other(start: Start, tmp_path: Path) -> None:
    axis = "train.learning_rate=1e-3,1e-4"
    terminal, command = start("train", "-m", axis, *SMALL, "train.max_steps=1", "run.dir=one")
    assert command.wait(TIMEOUT_SECONDS) == EXIT_DONE
    assert phases(terminal.shown()).count("training") == 2


PIPELINE = (
    "hardware=cpu", "hardware.num_threads=1", "run.dir=run", "data.max_rows=16", "run.score_rows=0",
    "train.eval_strategy=no", "train.logging_steps=1",
)  # fmt: skip


def test_each_stage_of_a_pipeline_draws_its_own_phases(start: Start) -> None:
    few = ("stages.sample.data.max_rows=6", "stages.judge.make.least_margin=0.0")
    steps = tuple(f"stages.{name}.train.max_steps=2" for name in ("assistant", "sft", "dpo"))
    terminal, command = start("train", "method=rlaif", *PIPELINE, *few, *steps, columns=60)
    assert command.wait(TIMEOUT_SECONDS) == EXIT_DONE
    found = terminal.shown()
    stages = [place for place, line in enumerate(found) if re.match(r"stage \w+: [a-z]", line)]
    drawn = {
        re.match(r"stage (\w+)", found[begin])[1]: phases(found[begin:end])  # type: ignore[index]
        for begin, end in zip(stages, [*stages[1:], len(found)], strict=True)
    }
    assert [*drawn] == ["assistant", "sft", "sample", "judge", "dpo"]
    for name in ("assistant", "sft", "dpo"):
        assert drawn[name].count("training") == 1, drawn
    assert "generating answers" in drawn["sample"]
    assert "judging answers" in drawn["judge"]
    assert "training" not in [*drawn["sample"], *drawn["judge"]]
    assert "measuring policies" in drawn["dpo"]
    bars = [line for line in found if "━" in line]
    assert len(bars) == sum(len(each) for each in drawn.values())
    assert all(len(line) <= 57 for line in bars)
    assert not any(line.startswith("step ") for line in found)
    assert found[-1].startswith("  ftcli ")


def test_ctrl_c_in_a_stage_stops_the_pipeline_and_the_next_command_goes_on_there(start: Start) -> None:
    steps = ("stages.sft.train.max_steps=2", "stages.reward.train.max_steps=100000", "stages.ppo.train.max_steps=1")
    terminal, command = start("train", "method=rlhf", *PIPELINE, *steps, echo=True)
    terminal.until(lambda lines: any(re.search(r"training .* [1-9][\d,]*/100,000 steps", line) for line in lines))
    terminal.type("\x03")
    assert command.wait(TIMEOUT_SECONDS) == EXIT_INTERRUPTED
    found = terminal.shown()
    told = next(place for place, line in enumerate(found) if line.startswith("SIGINT: stopping"))
    assert not any("━" in line for line in found[told:])
    assert found[told + 1].endswith("reward  stopped by SIGINT") or " after step " in found[told + 1]
    assert "resume with: ftcli train --resume " in found[-1]
    assert found[-1].endswith("/run")
