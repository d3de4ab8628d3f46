"""What the stages of the card check share: where they work, how they run ftcli, and how they say what they found."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
MODELS = ("small", "1b", "3b", "8b")
_TIMEOUT_SECONDS = 900
"""Of one command; a stage's own budget ends it earlier."""
_SHOWN_LINES = 12


class Failed(Exception):
    """A stage cannot go on: a command ended otherwise than it should."""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    words: Sequence[str]
    code: int
    out: str
    err: str
    seconds: float

    def data(self) -> Any:
        """What it printed with --json."""
        try:
            return json.loads(self.out)
        except ValueError:
            raise Failed(f"ftcli {self.words[0]} --json printed no JSON: {self.out[-300:]!r}") from None

    def tail(self, number: int = _SHOWN_LINES) -> str:
        """The last lines that it wrote."""
        lines = [line for line in (self.out + "\n" + self.err).splitlines() if line.strip()]
        return "\n".join(lines[-number:])


@dataclass
class Findings:
    """What a stage measured, what of it is wrong, and what could not be judged here."""

    on_card: bool
    figures: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)

    def expect(self, holds: bool, sentence: str) -> None:
        """Note a fault unless it holds."""
        if not holds:
            self.faults.append(sentence)

    def expect_on_card(self, holds: bool, sentence: str) -> None:
        """As `expect` on a card; on a CPU the sentence is noted as one that was not judged."""
        if self.on_card:
            self.expect(holds, sentence)
        else:
            self.unjudged.append(sentence)


def environment(folder: Path) -> dict[str, str]:
    """Without network, and with caches of its own; PYTHONPATH leads to this checkout and to the unpacked wheels."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [str(REPOSITORY), *(each for each in given if each and each != str(REPOSITORY))]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(folder / "hub"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


def ftcli_command(words: Sequence[str]) -> list[str]:
    """The command as this Python runs it."""
    return [sys.executable, "-m", "ftcli", *words]


def _address_space(gib: float | None) -> Callable[[], None] | None:
    if gib is None:
        return None
    size = int(gib * 2**30)
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


def run_ftcli(words: Sequence[str], folder: Path, said: str, limit_gib: float | None) -> Done:
    """Run ftcli to its end as a user starts it.

    Args:
        said: its standard input.
        limit_gib: the address space that the command and its worker may take; None is all.
    """
    began = time.perf_counter()
    done = subprocess.run(
        ftcli_command(words), cwd=folder, env=environment(folder), input=said, capture_output=True, text=True,
        timeout=_TIMEOUT_SECONDS, check=False, preexec_fn=_address_space(limit_gib),
    )  # fmt: skip
    return Done(words, done.returncode, done.stdout, done.stderr, round(time.perf_counter() - began, 2))


@dataclass(frozen=True)
class Bench:
    """Where a stage works, and on what."""

    folder: Path
    device: str
    """cuda or cpu."""
    tiny: bool
    """Whether models and rows are as small as a rehearsal wants them."""
    start: Callable[[Sequence[str], Path, str, float | None], Done] = run_ftcli

    @property
    def on_card(self) -> bool:
        """Whether it is a GPU."""
        return self.device == "cuda"

    @property
    def hardware(self) -> list[str]:
        """The settings that choose the device."""
        return ["hardware=gpu"] if self.on_card else ["hardware=cpu", "hardware.num_threads=1"]

    def either(self, full: Any, tiny: Any) -> Any:
        """The first on a card, the second in a rehearsal."""
        return tiny if self.tiny else full

    def ftcli(self, *words: str, expect: int | None = 0, said: str = "", limit_gib: float | None = None) -> Done:
        """Run one command.

        Raises:
            Failed: it ended with another code than expected.
        """
        done = self.start(words, self.folder, said, limit_gib)
        if expect is not None and done.code != expect:
            raise Failed(f"ftcli {' '.join(words)}: exit {done.code}, not {expect}\n{done.tail()}")
        return done

    def run_dir(self, name: str) -> Path:
        """The folder of a run that does not exist yet."""
        folder = self.folder / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def train(self, name: str, *words: str) -> tuple[Path, dict[str, Any]]:
        """Train to the end: the run's folder and its result.

        Raises:
            Failed: it ended otherwise.
        """
        run = self.run_dir(name)
        done = self.ftcli("train", "--json", f"run.dir={run}", *self.hardware, *words)
        return run, done.data()

    def together(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run commands side by side on a card, one after the other on a CPU; their answers in order.

        Memory is each process's own, so what is not timed need not wait.
        """
        with ThreadPoolExecutor(3 if self.on_card else 1) as pool:
            return [each.result() for each in [pool.submit(job) for job in jobs]]

    def model(self, name: str) -> Path:
        """The folder of a random model, which is written where it is missing."""
        return self.models(name)[0]

    def models(self, *names: str) -> list[Path]:
        """The folders of random models; those that are missing are written.

        Raises:
            Failed: they cannot be written.
        """
        folders = [self.folder / "models" / name for name in names]
        missing = [name for name, folder in zip(names, folders, strict=True) if not (folder / "written").is_file()]
        if missing:
            # A process of its own, so that what it takes of the card is free again.
            where = [str(self.folder / "models"), self.device, str(int(self.tiny))]
            command = [sys.executable, "-m", "tests.gpu.random_models", *where, *missing]
            done = subprocess.run(
                command, cwd=REPOSITORY, env=environment(self.folder), capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise Failed(f"the random models {', '.join(missing)} cannot be written\n{done.stderr[-1500:]}")
        return folders


def peak_of(result: dict[str, Any], name: str = "peak_reserved_gib") -> float | None:
    """A peak of a run's memory, in GiB; None on a CPU."""
    found = (result.get("machine") or {}).get(name)
    return float(found) if found is not None else None


def lines_of(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run, one for each logged step."""
    path = run / "metrics.jsonl"
    texts = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for line in map(json.loads, texts) if "loss" in line]
