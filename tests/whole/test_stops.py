"""Each of the six signals in each phase: it stops at once, is named, and what is resumed ends as if nothing had been.

The signal is sent by the worker itself as a phase begins (tests/warm_worker.py), to the command that started it, as a
user would send it; SIGKILL goes to the worker. A sample gives each phase one of the signals; `make proof` all of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftcli.core.exit_codes import EXIT_INTERRUPTED, EXIT_RANK_LOST
from ftcli.runs import rundir
from tests.conftest import MakeOnce
from tests.warm import Warm, possible
from tests.whole.conftest import TIMEOUT_SECONDS, Start, Train, environment

SIGNALS = ("SIGUSR1", "SIGHUP", "SIGTERM", "SIGQUIT", "SIGINT", "SIGKILL")
COMMON = (
    "hardware=cpu", "hardware.num_threads=1", "data.max_rows=24", "data.max_eval_rows=4", "run.score_rows=4",
    "train.eval_strategy=steps", "train.eval_steps=2", "train.save_strategy=steps", "train.save_steps=2",
    "train.logging_steps=1", "run.dir=run",
)  # fmt: skip
SFT = (
    "train", "peft=lora", "peft.lora_dropout=0.1", "train.max_steps=4", "train.per_device_train_batch_size=4", *COMMON
)  # fmt: skip
GRPO = (
    "train", "method=grpo", "method.rewards={length: 1}", "method.num_generations=4", "peft=lora", "train.max_steps=4",
    "method.max_completion_length=12", "train.per_device_train_batch_size=8", *COMMON,
)  # fmt: skip
PPO = (
    "train", "method=ppo", "method.rewards={length: 1}", "method.num_ppo_epochs=1", "method.num_mini_batches=1",
    "method.max_new_tokens=12", "peft=lora", "train.max_steps=4", "train.per_device_train_batch_size=8", *COMMON,
)  # fmt: skip
COMMANDS = {"sft": SFT, "grpo": GRPO, "ppo": PPO}
PHASES = (
    ("sft", "preparing rows"), ("sft", "loading the model"), ("sft", "preparing the trainer"),
    ("sft", "evaluating at step 2"), ("sft", "preparing to train"), ("sft", "measuring before training"),
    ("sft", "saving checkpoint-2"), ("sft", "saving the model"), ("sft", "measuring after training"),
    ("grpo", "loading the rewards"), ("grpo", "answering prompts for step 2"), ("grpo", "evaluating at step 2"),
    ("grpo", "measuring before training"), ("ppo", "answering prompts for step 2"),
)  # fmt: skip
ALL = bool(os.environ.get("FTCLI_PROOF"))
CHOSEN = [
    (method, phase, name)
    for place, (method, phase) in enumerate(PHASES)
    for turn, name in enumerate(SIGNALS)
    if ALL or turn == place % len(SIGNALS)
]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not possible(), reason="the signals are planted in forks")]


def planted(phase: str, *names: str) -> dict[str, str]:
    """The environment in which a worker sends signals as a phase begins."""
    return {"FTCLI_TEST_SIGNAL": f"{phase}={'+'.join(str(int(getattr(signal, name))) for name in names)}"}


def expected(name: str) -> int:
    """The exit code of a command whose worker a signal ended: what is killed is lost, and has not stopped."""
    return EXIT_RANK_LOST if name == "SIGKILL" else EXIT_INTERRUPTED


@pytest.fixture(scope="session")
def uninterrupted(once: MakeOnce, warm: Warm) -> dict[str, bytes]:
    """The weights of each method's run that nobody stopped."""
    found = {}
    for method, words in COMMANDS.items():

        def make(folder: Path, words: tuple[str, ...] = words) -> None:
            done = warm.run(words, folder, environment(), TIMEOUT_SECONDS)
            assert done.returncode == 0, done.stderr

        folder = once(f"unstopped-{method}", make)
        found[method] = (folder / "run" / rundir.MODEL / "adapter_model.safetensors").read_bytes()
    return found


@pytest.mark.parametrize(("method", "phase", "name"), CHOSEN)
def test_a_signal_in_any_phase_stops_is_named_and_loses_nothing(
    method: str,
    phase: str,
    name: str,
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    ftcli_run: Train,
    ftcli_start: Start,
) -> None:
    with ftcli_start(*COMMANDS[method], cwd=tmp_path, **planted(phase, name)) as command:
        code = command.wait(TIMEOUT_SECONDS)
    _, said = command.said()
    assert code == expected(name), said
    assert f"ftcli train --resume {tmp_path / 'run'}" in said
    assert "Traceback" not in said
    assert "bug in ftcli" not in said
    if name != "SIGKILL":
        assert f"stopped by {name}" in said
    assert not (tmp_path / "run" / rundir.RESULT).exists()
    before = tmp_path / "run" / "before.json"
    measured = before.stat().st_mtime_ns if before.exists() else None
    ftcli_run("train", "--resume", "run", cwd=tmp_path)
    if measured is not None:  # what was measured is not measured again
        assert before.stat().st_mtime_ns == measured
    assert (tmp_path / "run/model/adapter_model.safetensors").read_bytes() == uninterrupted[method]


def test_a_second_signal_ends_at_once_and_says_what_is_lost(tmp_path: Path, ftcli_start: Start) -> None:
    with ftcli_start(*SFT, cwd=tmp_path, **planted("saving checkpoint-4", "SIGTERM", "SIGINT")) as command:
        code = command.wait(TIMEOUT_SECONDS)
    _, said = command.said()
    assert code == 75, said
    assert "; lost: 2 steps since checkpoint-2" in said
    assert f"ftcli train --resume {tmp_path / 'run'}" in said
    assert not (tmp_path / "run/checkpoints/checkpoint-4").exists()


def stopped(command: Any, number: signal.Signals, ready: Callable[[], bool]) -> str:
    """What a command says that is sent a signal as soon as it is ready for it, and stops for that."""
    while command.poll() is None and not ready():
        time.sleep(0.01)
    command.send_signal(number)
    code = command.wait(TIMEOUT_SECONDS)
    _, said = command.said()
    assert code == 75, said
    return said


def test_two_processes_stop_together_outside_of_training_too(tmp_path: Path, ftcli_start: Start) -> None:
    words = (*SFT, "hardware.num_processes=2", "train.per_device_train_batch_size=2")
    with ftcli_start(*words, cwd=tmp_path) as command:
        # Written just before the trainer is prepared and the starting model measured.
        said = stopped(command, signal.SIGHUP, (tmp_path / "run" / rundir.ENVIRONMENT).exists)
    assert "stopped by SIGHUP while" in said
    assert "bug in ftcli" not in said  # the launcher prints a traceback of its own, of a process that failed
    working = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    assert not [each for each in working if str(tmp_path) in each]


def test_a_terminal_that_is_closed_stops_a_run_with_all_that_it_started(tmp_path: Path) -> None:
    outer, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ftcli", *SFT],
        cwd=tmp_path,
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    with process:
        while process.poll() is None and not (tmp_path / "run" / rundir.ENVIRONMENT).exists():
            if select.select([outer], [], [], 0.01)[0]:
                os.read(outer, 65536)  # a terminal that nobody reads would hold up who writes
        os.close(outer)
        assert process.wait(TIMEOUT_SECONDS) == 75
    assert "stopped by SIGHUP while" in (tmp_path / "run" / rundir.LOG).read_text(encoding="utf-8")


@pytest.mark.skipif(not ALL, reason="two real starts; `make proof` waits for them")
def test_a_sweep_stops_its_job_with_a_checkpoint_and_starts_no_other(tmp_path: Path, ftcli_start: Start) -> None:
    words = ("train", "-m", *SFT[1:-1], "run.dir=runs", "train.max_steps=400,500")
    with ftcli_start(*words, cwd=tmp_path) as command:
        metrics = tmp_path / "runs/max_steps-400" / rundir.METRICS
        said = stopped(command, signal.SIGTERM, lambda: metrics.exists() and bool(metrics.read_text(encoding="utf-8")))
    assert "stopped by SIGTERM after step" in said
    assert [*(tmp_path / "runs/max_steps-400" / rundir.CHECKPOINTS).glob("checkpoint-*")]
    assert not (tmp_path / "runs/max_steps-500").exists()


STAGES = ("generating answers", "judging answers", "reading rows", "loading the model")


@pytest.mark.parametrize(
    ("phase", "name"),
    [(phase, name) for phase in STAGES for name in SIGNALS] if ALL else [*zip(STAGES[:2], SIGNALS[:2], strict=True)],
)
def test_a_stage_that_makes_data_stops_and_goes_on(
    phase: str, name: str, tmp_path: Path, ftcli_run: Train, ftcli_start: Start
) -> None:
    short = (
        "stages.assistant.train.max_steps=2", "stages.sample.data.max_rows=4", "stages.judge.make.least_margin=0.0",
        "stages.dpo.train.max_steps=1", "run.score_rows=0", "train.eval_strategy=no", "stages.sft.train.max_steps=2",
    )  # fmt: skip
    words = ("train", "method=rlaif", "hardware=cpu", "hardware.num_threads=1", "run.dir=whole", *short)
    with ftcli_start(*words, cwd=tmp_path, **planted(phase, name)) as command:
        code = command.wait(TIMEOUT_SECONDS)
    _, said = command.said()
    assert code == expected(name), said
    assert f"ftcli train --resume {tmp_path / 'whole'}" in said
    assert "Traceback" not in said
    if name != "SIGKILL":
        assert f"stopped by {name} while {phase}" in said
    ftcli_run("train", "--resume", "whole", cwd=tmp_path)
    assert json.loads((tmp_path / "whole" / rundir.RESULT).read_text(encoding="utf-8"))["stages"]


OTHERS = (
    ("generating answers", ("generate", "builtin:tiny", "Hello.")),
    ("sampling answers", ("sample", "builtin:tiny", "rows.jsonl", "--to", "new.jsonl")),
    ("preparing rows", ("data", "check", "data.path=rows.jsonl")),
    ("reading rows", ("data", "preview", "data.path=rows.jsonl")),
    ("chatting", ("chat", "builtin:tiny")),
    ("evaluating", ("eval", "RUN")),
)


@pytest.mark.parametrize(
    ("phase", "words", "name"),
    [
        (phase, words, name)
        for place, (phase, words) in enumerate(OTHERS)
        for turn, name in enumerate(SIGNALS[:-1])
        if ALL or turn == place % len(SIGNALS)
    ],
)
def test_any_other_command_that_asks_a_worker_stops_and_says_so(
    phase: str,
    words: tuple[str, ...],
    name: str,
    tmp_path: Path,
    ftcli_start: Start,
    shared: Path,
    uninterrupted: dict[str, bytes],
) -> None:
    words = tuple(str(shared / "unstopped-sft" / "run") if word == "RUN" else word for word in words)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Say red.", "completion": "red"}\n', encoding="utf-8")
    with ftcli_start(*words, cwd=tmp_path, **planted(phase, name)) as command:
        code = command.wait(TIMEOUT_SECONDS)
    _, said = command.said()
    assert code == 75, said
    assert said.count(f"stopped by {name}") == 1, said
    assert "Traceback" not in said
