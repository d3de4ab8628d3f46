"""A worker that is started before its run is known, and imports its libraries while the front half composes and checks.

It is only taken where it is the process that would be started then: one process, with the same environment. What the
front half cannot know before it has composed, the number of threads above all, is guessed from the command line; a
wrong guess costs what was imported, and nothing else. Nothing of the user's is read by a worker that waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence

from ftcli.core import hardware
from ftcli.runs.beats import CHANNEL
from ftcli.runs.worker_records import OUTPUT, TERMINAL, WAITS
from ftcli.settings.run_spec import LaunchPlan

_LATE = frozenset({CHANNEL, TERMINAL, OUTPUT})
"""Variables of the environment that no library reads while it is imported."""
_NO_TRAINING = frozenset({"-h", "--help", "--dry-run", "-m", "--multirun", "--cfg", "-c", "--info", "-i", "--plugins"})
_THREADS = "hardware.num_threads="
_ON_CPU = frozenset({"hardware=cpu", "hardware.device=cpu"})
_ELSEWHERE = ("hardware=slurm", "hardware=multi", "hardware=fsdp", "hardware=zero", "hardware.num_processes=")

_waiting: tuple[subprocess.Popen[bytes], int, dict[str, str]] | None = None
"""The process, the file that its work is written to, and its environment."""


def likely(arguments: Sequence[str]) -> LaunchPlan | None:
    """The plan that `ftcli train ARGUMENTS` most likely has, if that is one for which a worker can be started early.

    One process, on a GPU where there is one, else on a CPU with a thread for each core. None where no run is started
    here, or there is no core on which it could import beside the front half.
    """
    if hardware.num_cores() == 1 or not _NO_TRAINING.isdisjoint(arguments) or any(map(_elsewhere, arguments)):
        return None
    named = [word.removeprefix(_THREADS) for word in arguments if word.startswith(_THREADS)]
    threads = int(named[-1]) if named and named[-1].isdigit() else None
    if not hardware.gpus() or not _ON_CPU.isdisjoint(arguments):
        return LaunchPlan(num_processes=1, device="cpu", num_threads=threads or hardware.num_cores())
    return LaunchPlan(num_processes=1, device="cuda", num_threads=threads)


def _elsewhere(word: str) -> bool:
    return word.startswith(_ELSEWHERE)


def begin(start: Callable[[list[str], int], subprocess.Popen[bytes]], environment: Mapping[str, str]) -> None:
    """Start a worker that waits.

    Args:
        start: starts one with arguments and a file that it inherits.
        environment: that in which it does.
    """
    global _waiting
    end()
    reads, writes = os.pipe()
    try:
        _waiting = start([WAITS, str(reads)], reads), writes, dict(environment)
    except OSError:  # whoever needs it will be told
        os.close(writes)
    finally:
        os.close(reads)


def take(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """The worker that waits, with its work; None where there is none, or not one for this work.

    Args:
        arguments: of the worker, without its module.
        environment: that in which a new one would be started.
    """
    global _waiting
    if _waiting is None:
        return None
    process, writes, before = _waiting
    if process.poll() is not None or _early(before) != _early(environment):
        end()
        return None
    _waiting = None
    late = {name: environment[name] for name in _LATE & environment.keys()}
    try:
        with open(writes, "w", encoding="utf-8") as pipe:
            json.dump({"environment": late, "arguments": list(arguments)}, pipe)
    except BrokenPipeError:  # it has ended since it was looked at
        _killed(process)
        return None
    return process


def end() -> None:
    """Kill the worker that waits, where there still is one."""
    global _waiting
    if _waiting is not None:
        process, writes, _ = _waiting
        _waiting = None
        with contextlib.suppress(OSError):
            os.close(writes)
        _killed(process)


def _killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _LATE}
