"""Watches the processes of a run on this machine: one that died, failed or hangs ends the run, by its name.

torch's launcher leaves processes half a minute after one died, and notices none that hangs: no time limit reaches a
group on a CPU, and on a GPU the limit of the collectives names nobody. With several machines each watches its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcli.core.exit_codes import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RANK_LOST
from ftcli.launch.main_threads import Standing, alive, standings, work_done
from ftcli.runs import run_end
from ftcli.runs.beats import TRAINING, Beat, read_all
from ftcli.runs.run_end import RunEnd
from ftcli.settings.run_spec import LaunchPlan

DEATH_SECONDS = 15
"""Within so many seconds after a process of several died or failed, the run has ended."""
HANG_SECONDS = 20
"""Within so many seconds after hardware.step_timeout_seconds without progress, the run has ended."""
_GRACE_SECONDS = 10.0
"""How long the others may take to end by themselves, each with what it has to say."""
_POLL_SECONDS = 0.5
_ASKS_AGAIN_SECONDS = 8.0
_ASLEEP_SECONDS = 5.0
"""Between two looks that far apart this process was stopped itself, and perhaps all others with it."""


@dataclass
class _Seen:
    """A process as it was seen last."""

    beat: Beat
    since: float
    """When it last got on."""
    work: Sequence[str] = ()


class RankWatch:
    """The watch over one launch."""

    def __init__(
        self,
        folder: Path,
        plan: LaunchPlan,
        step_timeout: float | None,
        end_all: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """
        Args:
            folder: where the processes beat.
            step_timeout: seconds without progress after which a process counts as hung; None is never.
            end_all: kills all processes of the run on this machine.
        """
        self.folder = folder
        self.lost: dict[int, Beat] = {}
        """The processes that died first, without a word."""
        self.hung: RunEnd | None = None
        """That one hung, and which."""
        self._plan, self._step_timeout, self._end_all, self._say = plan, step_timeout, end_all, say
        self._seen: dict[int, _Seen] = {}
        self._gone_since: float | None = None
        self._asks_again = 0.0
        self._looked: float | None = None
        self._ending = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def left(self) -> list[Beat]:
        """The last word of each process that left with one, and not well."""
        beats = (each.beat for each in self._seen.values())
        return [beat for beat in beats if beat.code not in (None, EXIT_DONE)]

    def beats(self) -> list[Beat]:
        """What each process told last."""
        return [each.beat for each in self._seen.values()]

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch from another thread while the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()
            self._take_beats(time.monotonic())

    def _run(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Look once at all processes."""
        if self._looked is not None and now - self._looked > _ASLEEP_SECONDS:
            for each in self._seen.values():
                each.since += now - self._looked
        self._looked = now
        self._take_beats(now)
        self._end_after_one_is_gone(now)
        if self._step_timeout is not None and self.hung is None:
            self._end_where_one_hangs(now, self._step_timeout)

    def _take_beats(self, now: float) -> None:
        before = {rank: each.beat for rank, each in self._seen.items()}
        found, started = read_all(self.folder, before), {beat.local: beat.pid for beat in before.values()}
        if any(started.get(beat.local, beat.pid) != beat.pid for beat in found.values()):
            self.lost, self.hung, self._gone_since = {}, None, None  # the launcher started them again
        for rank in before.keys() - found.keys():  # which has another one now
            del self._seen[rank]
        for rank, beat in found.items():
            seen = self._seen.get(rank)
            if seen is None or beat != seen.beat:
                self._seen[rank] = _Seen(beat, now, work_done(beat.pid))
            elif beat.phase != TRAINING and beat.code is None:
                work = work_done(beat.pid)
                if work != seen.work or not work:
                    seen.since, seen.work = now, work
        if not self.lost and not self._ending and self._plan.num_processes > 1:
            beats = {rank: each.beat for rank, each in self._seen.items()}
            self.lost = {rank: beat for rank, beat in beats.items() if beat.code is None and not alive(beat)}

    def _end_after_one_is_gone(self, now: float) -> None:
        failed = [beat for beat in self.left() if beat.code != EXIT_INTERRUPTED]
        if self._plan.num_processes == 1 or not (self.lost or failed):
            return
        self._gone_since = now if self._gone_since is None else self._gone_since
        if not self._plan.max_restarts and now - self._gone_since > _GRACE_SECONDS:
            self._ending = True
            self._end_all()

    def patience(self, late: Mapping[int, Beat]) -> float:
        """How much longer all processes of this machine may wait in a collective.

        With several machines they may wait for one of another, which that machine ends by its name first. Outside of
        steps, one process may work for hours while all others wait: only its own machine sees that it works.
        """
        if self._plan.num_nodes == 1:
            return 0.0
        return _GRACE_SECONDS if all(beat.phase == TRAINING for beat in late.values()) else math.inf

    def _end_where_one_hangs(self, now: float, most: float) -> None:
        at_work = {rank: each for rank, each in self._seen.items() if each.beat.code is None and rank not in self.lost}
        late = {rank: each.beat for rank, each in at_work.items() if now - each.since > most}
        if not late or now < self._asks_again:
            return
        stand = standings(self.folder, late)
        for rank in late:  # to answer was work too
            self._seen[rank].work = work_done(late[rank].pid)
        self._asks_again = now + _ASKS_AGAIN_SECONDS
        if any(late[rank] != beat for rank, beat in read_all(self.folder, {}).items() if rank in late):
            return  # it got on at the last moment
        longest = min(now - each.since for each in at_work.values())
        alone = self._plan.num_processes == 1
        hanging = list(late) if alone else culprits(late, stand, all_wait=longest > most + self.patience(late))
        if not hanging:
            return
        first = late[hanging[0]]
        self.hung = RunEnd(
            code=EXIT_RANK_LOST, message=told(late, stand, hanging, most, alone=alone), rank=first.rank,
            host=run_end.this_host(), step=first.step, phase=first.phase,
        )  # fmt: skip
        if self._plan.max_restarts:  # the launcher then starts all of them again
            for rank in hanging:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(late[rank].pid, signal.SIGKILL)
        else:
            self._ending = True
            self._end_all()
        self._say(self.hung.message)


def culprits(late: Mapping[int, Beat], stand: Mapping[int, Standing], *, all_wait: bool) -> Sequence[int]:
    """The processes that hang, among those that have not got on: not those that wait for one in a collective.

    Args:
        all_wait: whether none of this machine's processes has got on, and no other machine has ended the run for it.
    """
    if silent := [rank for rank in late if not stand[rank].answers]:
        return silent
    busy = [rank for rank in late if not stand[rank].waits]
    if not busy and not all_wait:
        return []
    found = busy or list(late)
    if all(late[rank].phase == TRAINING for rank in found):  # who is behind waits for nobody
        least = min((late[rank].step or 0, late[rank].mark) for rank in found)
        found = [rank for rank in found if (late[rank].step or 0, late[rank].mark) == least]
    return found


def told(
    late: Mapping[int, Beat], stand: Mapping[int, Standing], hanging: Sequence[int], most: float, *, alone: bool
) -> str:
    """The message that names the processes that hang, where, and which wait for them; of one that is alone, no rank."""
    parts = []
    for rank in hanging:
        beat = late[rank]
        where = f"in step {beat.step}" if beat.phase == TRAINING else f"while {beat.phase}"
        how = f"at {stand[rank].place}" if stand[rank].answers else "and does not answer"
        who = "the worker" if alone else f"rank {rank}"
        parts.append(f"{who} has made no progress for {most:g} seconds {where}, {how}")
    waiting = [str(rank) for rank in late if rank not in hanging]
    if waiting:
        parts.append(f"{'rank' if len(waiting) == 1 else 'ranks'} {', '.join(waiting)} waited for it")
    return "; ".join(parts)


@contextlib.contextmanager
def channel() -> Iterator[Path]:
    """A folder for the beats of one launch, on this machine."""
    with tempfile.TemporaryDirectory(prefix="ftcli-beats-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
