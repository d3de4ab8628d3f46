"""Commands in forks of one process that has the libraries in memory already.

    python -m tests.warm_worker FOLDER    reads a JSON request a line; answers with the process id, then the exit code

Importing torch and TRL takes eight seconds of each worker's life, and most tests of whole commands are about something
else. Here a command is a process of its own all the same, with its own environment, folder and streams, and so is the
worker that it starts, as its child: signals, process ids and `FTCLI_PARENT` are what they are otherwise. Our own
modules are imported anew in each, so that nothing passes from the front half to the worker but what is on disk; the
folder keeps them compiled.

Three things differ from a real start: what a library reads of the environment while it is imported is the server's,
sets of strings are in the same order in all processes, and torch is in memory of the front half too. So tests of
starting up, kills, signals, launchers and what the front half imports start real processes.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import ctypes
import gc
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

IMPORTS = (ast.Import, ast.ImportFrom)
# Imported by a worker only where a run says so.
SELDOM = ("__future__", "deepspeed", "vllm", "wandb", "trackio", "mlflow")
PR_SET_PDEATHSIG = 1
_TOKENISES = "TOKENIZERS_PARALLELISM"
_collector = gc.get_threshold()
PLANTED = "FTCLI_TEST_SIGNAL"
NOISE = "FTCLI_TEST_NOISE"
"""TEXT@FILE makes a worker print TEXT, in each way that libraries do, as each of its phases begins, and add a line with
its command to FILE."""
_left: list[Any] = []
"""The streams of the process that this one was forked from."""


def descriptors() -> set[int]:
    """The files that this process has open, standard streams apart."""
    return {number for number in map(int, os.listdir("/proc/self/fd")) if number > 2}


def load_libraries() -> None:
    """Import what our modules import, without importing ours: what they register, they register in each process."""
    files = (Path(__file__).resolve().parent.parent / "ftcli").rglob("*.py")
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(files)]
    found = {ast.unparse(node) for tree in trees for node in ast.walk(tree) if isinstance(node, IMPORTS)}
    # What transformers imports only when a model is made: the families of the models in the tests.
    found |= {f"import transformers.models.{name}.modeling_{name}" for name in ("llama", "qwen3")}
    for line in sorted(line for line in found if line.split()[1].partition(".")[0] not in ("ftcli", *SELDOM)):
        with contextlib.suppress(ImportError):  # a library that only some installations have
            exec(line, {})
    read_once()
    answer_as_a_worker_does()
    gc.collect()
    gc.freeze()


def read_once() -> None:
    """Have the libraries make the tables that they make at their first use in a process."""
    from hydra.core.plugins import Plugins
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    Plugins.instance()
    get_checkpoint_conversion_mapping("llama")


def answer_as_a_worker_does() -> None:
    """Spare each process what a real one is spared while it imports (ftcli/worker/process/deferred_imports.py).

    accelerate imports DeepSpeed to unwrap its engines, which takes a good part of a worker with two steps.
    """
    import accelerate.utils.other as accelerate_models

    available = accelerate_models.is_deepspeed_available
    accelerate_models.is_deepspeed_available = lambda: "deepspeed" in sys.modules and available()


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """Starts processes; a worker's and a sweep's job's go on in their fork, where real ones call exec."""

    own: frozenset[int] = frozenset()

    def __init__(self, args: Any, **how: Any) -> None:
        if list(args[:2]) == [sys.executable, "-m"] and args[2] in ("ftcli", "ftcli.worker"):
            module, before = args[2], how.get("preexec_fn") or (lambda: None)
            environment = dict(os.environ if how.get("env") is None else how["env"])
            if module == "ftcli.worker":
                environment |= {_TOKENISES: "true"}
            own = self.own | set(how.get("pass_fds", ()))
            how["preexec_fn"] = lambda: (before(), go_on_as(module, args[3:], environment, own))
        super().__init__(args, **how)


def go_on_as(module: str, words: Sequence[str], environment: Mapping[str, str], own: frozenset[int]) -> NoReturn:
    """Be `python -m MODULE WORDS` from here on, in a process that was just forked."""
    code = 1
    try:
        if module == "ftcli":  # of a sweep, whose own modules this one must not find
            for name in [name for name in sys.modules if name.partition(".")[0] == "ftcli"]:
                del sys.modules[name]
        for number in descriptors() - own:
            with contextlib.suppress(OSError):
                os.close(number)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does where it starts
        # What is to be done when the forked process ends, as with its temporary folders, is not ours to do.
        weakref.finalize._registry.clear()  # type: ignore[attr-defined]
        os.environ.clear()
        os.environ.update(environment)
        through = bool(environment.get("PYTHONUNBUFFERED"))
        # A stream that nobody holds closes its number, which by now may be that of the stream in its place.
        _left.extend((sys.stdin, sys.stdout, sys.stderr))
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(os.dup(1), "w")
        sys.stderr = os.fdopen(os.dup(2), "w", errors="backslashreplace")
        sys.stdout.reconfigure(write_through=through)
        sys.stderr.reconfigure(line_buffering=True)
        import torch

        torch.set_num_threads(int(environment.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
        gc.enable()
        gc.set_threshold(*_collector)
        sys.argv = [module, *words]
        if module == "ftcli.worker" and PLANTED in environment:
            signal_in_phase(environment[PLANTED])
        if module == "ftcli.worker" and NOISE in environment:
            noise_in_phases(environment[NOISE])
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def noise_in_phases(noise: str) -> None:
    """Print as libraries do whenever a phase of the worker begins."""
    text, _, noted = noise.partition("@")

    def hook(event: str, told: tuple[Any, ...]) -> None:
        if event == "ftcli.phase":
            with open(noted, "a", encoding="utf-8") as file:
                file.write(f"{sys.argv[1]}\n")
            print(f"{text} print of {told[0]}")
            sys.stderr.write(f"{text} write\n{text} half a line")
            warnings.warn(f"{text} warning of {told[0]}", UserWarning, stacklevel=2)
            for name in ("transformers", "accelerate", "trl", "torch"):
                logging.getLogger(name).error(f"{text} log of {name}")
            os.write(2, f"{text} write past Python\n\x1b[2J{text}\x1f{{}}\n".encode())

    sys.addaudithook(hook)


def signal_in_phase(planted: str) -> None:
    """Send a signal when a phase of the worker begins: PHASE=NUMBER, to the command that started it; SIGKILL to it.

    PHASE=NUMBER+NUMBER sends two, and stays in that phase. A phase is known by how its name begins
    (ftcli/worker/process/activity.py).
    """
    wanted, _, numbers = planted.rpartition("=")
    sent: list[int] = []

    def hook(event: str, told: tuple[Any, ...]) -> None:
        if event == "ftcli.phase" and not sent and str(told[0]).startswith(wanted):
            sent.extend(map(int, numbers.split("+")))
            for number in sent:
                os.kill(os.getpid() if number == signal.SIGKILL else os.getppid(), number)
            if len(sent) > 1:
                time.sleep(600)

    sys.addaudithook(hook)


def carry_out(request: dict[str, Any], own: frozenset[int]) -> NoReturn:
    """Be the command that is asked for, in a session of its own, which ends with the server."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    for number, name in enumerate((os.devnull, request["stdout"], request["stderr"])):
        os.dup2(os.open(name, os.O_RDWR if number else os.O_RDONLY), number)  # of a terminal it must read too
    Popen.own = own
    subprocess.Popen = Popen  # type: ignore[misc]
    environment = request["env"]
    if request["module"] == "ftcli":
        # Its worker is a fork of it, in which the threads of tokenizers would be missing, and be waited for for ever.
        environment = environment | {_TOKENISES: "false"}
    if request["ranks"]:
        environment = environment | as_a_rank(request["ranks"])
    go_on_as(request["module"], request["words"], environment, own)


def as_a_rank(number: int) -> dict[str, str]:
    """Fork that many ranks; returns in each with what a launcher would tell it. This process ends as they do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    told |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(number))
    ranks = []
    for rank in range(number):
        ranks.append(os.fork())
        if ranks[-1] == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            return told | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
    codes = []
    while len(codes) < number:
        codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
        if codes[-1]:  # the others would wait for it
            for rank in ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGKILL)
    os._exit(next((1 for code in codes if code), 0))


def end_of(child: int) -> int:
    """Wait for a command and give its exit code; it does not outlive who asked for it."""
    asker = os.getppid()
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if os.getppid() != asker:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve() -> None:
    """Carry out one request after the other, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    load_libraries()
    # From here on there is nothing to compile but our modules, and what a library imports seldom.
    sys.dont_write_bytecode, sys.pycache_prefix = False, sys.argv[1]
    own = frozenset(descriptors() - {answers.fileno()})
    if len(os.listdir("/proc/self/task")) != 1:
        raise SystemExit("a process with threads cannot be forked")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            carry_out(request, own)
        answers.write(f"{child}\n")
        answers.write(f"{end_of(child)}\n")


if __name__ == "__main__":
    serve()
