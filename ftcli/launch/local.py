"""Runs a run: writes its directory, starts the worker, passes signals on, keeps its log, and leaves no process behind.

One process is started directly, several through `accelerate launch`, whose own imports take three seconds. The worker
gets its own session, so Ctrl-C reaches only this process, which passes it on to the ranks.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcli.core import hardware
from ftcli.core.errors import CheckpointError, Problem
from ftcli.core.exit_codes import EXIT_DISK, EXIT_INTERRUPTED
from ftcli.core.text import shell_word
from ftcli.launch import early_worker
from ftcli.launch.devices import foreign_variables, one_device
from ftcli.launch.main_threads import alive
from ftcli.launch.memory_kills import memory_kills
from ftcli.launch.nodes import ALONE, WAIT_SECONDS, Node, own_address, without_node
from ftcli.launch.output_pump import Pump
from ftcli.launch.rank_watch import RankWatch, channel
from ftcli.launch.screen import can_be_redrawn, own_screen
from ftcli.launch.worker_end import Launch, end_of_output, settled
from ftcli.runs import checkpoints, run_end, rundir
from ftcli.runs.beats import CHANNEL, Beat
from ftcli.runs.resume_line import resume_with
from ftcli.runs.run_end import RunEnd
from ftcli.runs.stop_signals import handled, held_back, name_of, send
from ftcli.runs.unsaved import lost
from ftcli.runs.worker_records import LINES, MARKED, OUTPUT, RECORDS, REDRAWS, TERMINAL
from ftcli.settings.run_spec import LaunchPlan, RunSpec

# What the user's environment does not say otherwise. No library sends telemetry.
DEFAULTS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "TOKENIZERS_PARALLELISM": "true",
    "PYTHONUNBUFFERED": "1",
    # A folder named `datasets` in the working directory must not shadow the library.
    "PYTHONSAFEPATH": "1",
    # To map a block of memory anew for each tensor costs more than many a sum over it: a step of 8,000 packed tokens of
    # a small llama took 4.5 s, and takes 2.6 so. Blocks of up to 32 MiB, glibc's most, come from a heap that is kept,
    # larger ones from large pages where Linux gives them; together they hold no more at the peak than neither does.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2 * 2**30),
    "THP_MEM_ALLOC_ENABLE": "1",
}


_TURN_SECONDS = 0.5


def _unsaid(_: str) -> None:
    """Takes a note to nobody."""


def worker_environment(plan: LaunchPlan | None = None, say: Callable[[str], None] = _unsaid) -> dict[str, str]:
    """The environment that workers are started in.

    Args:
        plan: the run's; without one the worker is a single process on the device that it finds.
        say: takes notes of the device that was chosen and of variables that the worker is not given.
    """
    import psutil

    environment = {**DEFAULTS, **os.environ}
    if foreign := foreign_variables(environment):
        for name in foreign:
            del environment[name]
        say(f"{', '.join(foreign)} of the environment not passed on: a run starts from its own settings alone")
    environment.setdefault(hardware.ORDER, hardware.BY_BUS)
    if plan is None or (plan.num_processes == 1 and plan.device == "cuda"):
        shown, note = one_device(os.environ)
        environment |= shown
        if note:
            say(note)
    package_parent = str(Path(__file__).resolve().parents[2])
    if not package_parent.endswith(("site-packages", "dist-packages")):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    parent = psutil.Process()
    environment["FTCLI_PARENT"] = f"{parent.pid}:{parent.create_time()!r}"
    environment[TERMINAL] = RECORDS if own_screen() else REDRAWS if can_be_redrawn() else LINES
    environment[OUTPUT] = MARKED
    if plan is not None:
        if plan.max_restarts:
            # Otherwise torch's launcher gives processes that it starts again the store of those before, in which they
            # find the addresses of lost ones, and wait for them until the collective times out.
            environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
            if plan.num_nodes == 1:  # they meet at a free port
                environment["PET_RDZV_ENDPOINT"] = "127.0.0.1:0"
        if plan.num_threads is not None:
            environment["OMP_NUM_THREADS"] = str(plan.num_threads)
        if plan.device == "cpu":
            environment["ACCELERATE_USE_CPU"] = "true"
            environment["DS_ACCELERATOR"] = "cpu"  # otherwise DeepSpeed, where installed, warns that it finds none
            environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def worker_command(plan: LaunchPlan, arguments: Sequence[str], run: Path, node: Node = ALONE) -> list[str]:
    """The command that starts the worker for a launch plan; of several processes `run` holds the configuration."""
    worker = ["-m", "ftcli.worker", *arguments]
    if plan.num_processes == 1:
        return [sys.executable, *worker]
    # Without a file of its own, accelerate would read the one that the user once wrote with `accelerate config`.
    config = ["--config_file", str(run / _of_node(rundir.LAUNCHER, node))]
    return [sys.executable, "-m", "accelerate.commands.launch", *config, *_launcher_flags(plan, node), *worker]


def _launcher_flags(plan: LaunchPlan, node: Node) -> list[str]:
    """What accelerate's launcher does not read from its file: options whose default is not None."""
    if plan.num_nodes == 1 and not plan.max_restarts:
        return []
    # The elastic rendezvous: with the static one, processes that are started again read the addresses of lost ones.
    # The first node holds its store, for which the others wait.
    meet = f"is_host={int(node.rank == 0)},read_timeout={int(WAIT_SECONDS)}"
    return ["--max_restarts", str(plan.max_restarts), "--rdzv_backend", "c10d", "--rdzv_conf", meet]


def _of_node(name: str, node: Node) -> str:
    """A file that each machine writes for itself: the first under its name, the others with their rank in it."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{node.rank}.{suffix}" if node.rank else name


def launcher_config(plan: LaunchPlan, node: Node = ALONE) -> str:
    """The whole configuration of accelerate's launcher; precision and sharding are the trainer's own settings."""
    host, _, port = (node.endpoint or f":{_free_port()}").rpartition(":")
    lines = (
        ("compute_environment", "LOCAL_MACHINE"),
        ("distributed_type", "MULTI_GPU"),  # one process per device, with use_cpu in the environment on CPUs too
        ("num_machines", plan.num_nodes),
        ("machine_rank", node.rank or 0),
        ("num_processes", plan.num_processes),
        ("main_process_port", port),
        *((("main_process_ip", host),) if plan.num_nodes > 1 else ()),
        ("gpu_ids", "all"),
        ("mixed_precision", '"no"'),
        ("use_cpu", "false"),
        ("debug", "false"),
    )
    return "".join(f"{name}: {value}\n" for name, value in lines)


def prepare(spec: RunSpec, argv: Sequence[str]) -> Path:
    """Create the run directory with spec.json and command.sh.

    Raises:
        ConfigError: the directory is not empty, or cannot be created.
    """
    with rundir.created(Path(str(spec.run.dir))) as run:
        rundir.write_atomically(run / rundir.SPEC, without_node(spec).to_json())
        rundir.write_atomically(run / rundir.COMMAND, "#!/bin/sh\n" + shlex.join(["ftcli", *argv]) + "\n")
    return run


def newest_checkpoint(run: Path, needs: Sequence[str], say: Callable[[str], None]) -> Path | None:
    """The newest valid checkpoint of a run, reporting each damaged one; None where none was written yet.

    Args:
        needs: the files that each must have, as patterns.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    valid, damaged = checkpoints.newest_valid(run / rundir.CHECKPOINTS, needs)
    for entry in damaged:
        say(f"checkpoint {entry.path.name} is damaged and skipped: {'; '.join(entry.reasons)}")
    if valid is None and damaged:
        fix = f"start a new run with ftcli train --from {shell_word(run)}"
        raise CheckpointError(Problem(str(run), "has no valid checkpoint to resume from", fix))
    return valid


def _ranks(process: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of the workers themselves, without the launcher.

    Signals go to them alone: a launcher that got SIGTERM would shut its workers down by itself.
    """
    import psutil

    with contextlib.suppress(psutil.Error):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        workers = []
        for member in family:
            with contextlib.suppress(psutil.Error):
                command = member.cmdline()
                if "ftcli.worker" in command and "accelerate.commands.launch" not in command:
                    workers.append(member.pid)
        return workers or [process.pid]
    return []


class Stop:
    """The first signal asks the ranks to stop, as what it is; the second kills them at once, as one may hang.

    Used around the start of a process too: what arrives meanwhile is handled after it, by the process too.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.names: list[str] = []
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def at_once(self) -> bool:
        """Whether a second signal has come."""
        return len(self.names) > 1

    @contextlib.contextmanager
    def forwarded(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Pass the signals on to a process and its ranks."""
        self._process = process
        with handled(self._arrived):
            yield

    def _arrived(self, number: int, _frame: object) -> None:
        assert self._process is not None
        self.names.append(name_of(number))
        if self.at_once:
            _end_all(self._process)
            return
        for pid in _ranks(self._process):
            send(pid, number)
        self.tell(f"{self.names[0]}: stopping (a second signal stops at once, and loses what no checkpoint has)")

    def tell(self, text: str) -> None:
        """Say something, though the terminal may be the one that was closed."""
        try:
            self._say(text)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)


def _end_all(process: subprocess.Popen[bytes], ranks: Sequence[Beat] = ()) -> None:
    """Kill the worker, or the launcher and all processes below it, which are in sessions of their own.

    Args:
        ranks: processes that may have outlived the launcher.
    """
    import psutil

    family: list[psutil.Process] = []
    for pid in (process.pid, *(beat.pid for beat in ranks if alive(beat))):
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid)
            family += [*(() if pid == process.pid else (parent,)), *parent.children(recursive=True)]
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()


def ended(process: subprocess.Popen[Any]) -> int:
    """Wait for the end of a process; its exit code.

    In turns: a wait without an end was seen to go on after two signals that arrived together.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_TURN_SECONDS)


def _started(command: list[str], environment: Mapping[str, str], *inherits: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        pass_fds=inherits,
    )


def start_early(arguments: Sequence[str]) -> None:
    """Start the worker of `ftcli train ARGUMENTS` before they are read, where what they likely mean has a single one.

    Whoever calls it ends the one that is not taken: early_worker.end().
    """
    if (plan := early_worker.likely(arguments)) is not None:
        environment = worker_environment(plan)
        command = worker_command(plan, [], Path())
        with held_back():  # as any worker: a signal that it is sent before it handles any waits until it does
            early_worker.begin(lambda words, file: _started([*command, *words], environment, file), environment)


def run_worker(
    run: Path,
    plan: LaunchPlan,
    resume: Path | None,
    say: Callable[[str], None],
    command: str = "train",
    flags: Sequence[str] = (),
    node: Node = ALONE,
    step_timeout: float | None = None,
) -> int:
    """Train in `run`, or run another worker command there with its flags; returns the exit code (core/exit_codes.py).

    Args:
        node: this machine, among those of the plan.
        step_timeout: seconds without progress after which a process counts as hung; None is never.
    """
    arguments = [command, str(run), *(["--resume", str(resume)] if resume else []), *flags]
    log = run / _of_node(rundir.LOG, node)
    began, kills = log.stat().st_size if log.is_file() else 0, memory_kills()
    if not node.rank:
        run_end.remove(run)
    if plan.num_processes > 1:
        rundir.write_atomically(run / _of_node(rundir.LAUNCHER, node), launcher_config(plan, node))
    stop, environment = Stop(say), worker_environment(plan, say) | own_address(node, os.environ)
    if own_screen() is None:  # and each step has a line of its own
        environment[TERMINAL] = LINES
    with channel() as folder:
        with held_back(), contextlib.ExitStack() as forwarding:
            environment |= {CHANNEL: str(folder)}
            early = early_worker.take(arguments, environment) if plan.num_processes == 1 else None
            process = early or _started(worker_command(plan, arguments, run, node), environment)
            forwarding.enter_context(stop.forwarded(process))
            forwarded = forwarding.pop_all()
        assert process.stdout is not None
        pump = Pump(process.stdout, log)
        watch = RankWatch(folder, plan, step_timeout, lambda: _end_all(process), stop.tell)
        try:
            with forwarded, watch.watching():
                code = ended(process)
        finally:
            _end_all(process, watch.beats())  # any process that a launcher left behind
    pump.finish(10)
    if stop.at_once:
        return _at_once(run, stop)
    launch = Launch(
        run=run, code=code, num_processes=plan.num_processes, watch=watch, is_first=not node.rank, asked=stop.names,
        memory_kills=memory_kills() - kills, output=end_of_output(log, began),
        held_back=pump.held_back(),
    )  # fmt: skip
    code = settled(launch, stop.tell)
    if code == EXIT_DISK and not node.rank:  # what one process could not clear while another was writing
        for place in (run, run / rundir.CHECKPOINTS):
            checkpoints.sweep_staging(place)
    return code


def _at_once(run: Path, stop: Stop) -> int:
    """The end of a run that was stopped by a second signal."""
    message = f"stopped at once by {stop.names[1]}; {lost(run)}"
    stop.tell(message)
    stop.tell(resume_with(run))
    run_end.write(run, RunEnd(code=EXIT_INTERRUPTED, message=message, host=run_end.this_host()))
    return EXIT_INTERRUPTED
