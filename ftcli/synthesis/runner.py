"""Processes the items of a synthesis stage with a backend and journals each as soon as it is finished.

A resumed stage must give the rows of an uninterrupted one. A local model samples a whole batch from one random state,
so the batches are always the same slices of the items, and an incomplete one is repeated as a whole. An endpoint
answers items one by one with a seed each, so several are in progress at once, and each is written when it ends.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ftcli.data.files.file_types import DataFile
from ftcli.data.files.fingerprint import fingerprint
from ftcli.runs import rundir
from ftcli.synthesis.backend import Backend, BudgetSpent, Question, Reply
from ftcli.synthesis.journal import Item, Journal
from ftcli.synthesis.tasks import ItemResult, Task

DATA = "data.jsonl"
USED = "used"
"""In the journal: requests and tokens of an item, or on the first of a batch of all in it."""
KEEP_SECONDS = 5.0
"""How long a stop waits for requests under way, which are paid for."""
Reached = Callable[[int, int, str], None]
"""Takes how many items are finished, of how many, and what they are called; raises to stop there."""
Look = Callable[[list[dict[str, Any]]], None]


def sha256_of(folder: Path) -> str:
    """A fingerprint of a stage's rows, by which later edits are noticed."""
    file = folder / DATA
    return fingerprint(DataFile(path=str(file), name=str(file)))


def run(
    task: Task,
    items: Sequence[Item],
    backend: Backend,
    folder: Path,
    *,
    reached: Reached,
    look: Look = lambda lines: None,
    uninterrupted: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Counter[str]:
    """Process the unfinished items, then write data.jsonl in the order of the items.

    Args:
        reached: called at the start, and whenever items are finished.
        look: is given items as soon as they are finished, as the journal has them.
        uninterrupted: the context in which they are journaled, for a stop that would come in between.

    Returns:
        The number of rows ("rows"), and of dropped items by reason.

    Raises:
        BudgetSpent: the backend's budget is spent; finished items are kept.
    """
    journal = Journal(folder)

    def finished(lines: list[dict[str, Any]]) -> None:
        with uninterrupted():
            journal.add(lines)
            look(lines)
        reached(len(journal.done), len(items), "items")

    reached(len(journal.done), len(items), "items")
    (_in_batches if backend.batch_size else _singly)(task, items, backend, journal, finished)
    lines = [journal.done[item.key] for item in items]
    rows = [line["row"] for line in lines if line["row"] is not None]
    rundir.write_atomically(folder / DATA, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    counts = Counter(str(line["dropped"]) for line in lines if line["row"] is None)
    counts["rows"] = len(rows)
    return counts


def used_by(lines: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """The requests and tokens that went into finished items, as their lines tell."""
    total: Counter[str] = Counter()
    for line in lines:
        used = line.get(USED)
        for name, number in used.items() if isinstance(used, dict) else ():
            total[str(name)] += number if isinstance(number, int) else 0
    return total


def _processed(task: Task, items: Sequence[Item], backend: Backend) -> tuple[list[ItemResult], dict[str, int]]:
    """Items, made, and the requests and tokens that went into them."""
    used = dict.fromkeys(("requests", "prompt_tokens", "answer_tokens"), 0)

    def replies(questions: Sequence[Question]) -> list[Reply]:
        found = backend.replies(questions)
        used["requests"] += len(questions)
        used["prompt_tokens"] += sum(reply.prompt_tokens for reply in found)
        used["answer_tokens"] += sum(reply.answer_tokens for reply in found)
        return found

    return task.process(items, replies), used


def _in_batches(task: Task, items: Sequence[Item], backend: Backend, journal: Journal, finished: Look) -> None:
    assert backend.batch_size
    for start in range(0, len(items), backend.batch_size):
        batch = items[start : start + backend.batch_size]
        if all(item.key in journal.done for item in batch):
            continue
        journal.forget(item.key for item in batch)
        made, used = _processed(task, batch, backend)
        lines = [each.line(item) for item, each in zip(batch, made, strict=True)]
        finished([{**lines[0], USED: used}, *lines[1:]])


def _singly(task: Task, items: Sequence[Item], backend: Backend, journal: Journal, finished: Look) -> None:
    waiting: Iterator[Item] = (item for item in items if item.key not in journal.done)
    running: dict[Future[Any], Item] = {}
    stopped: BaseException | None = None

    def keep(ended: Iterable[Future[Any]]) -> None:
        nonlocal stopped
        for future in ended:
            item = running.pop(future)
            try:
                [made], used = future.result()
                finished([{**made.line(item), USED: used}])
            except (Exception, KeyboardInterrupt) as error:  # wait for the others in progress, and keep them
                stopped = stopped or error

    pool = ThreadPoolExecutor(max(1, backend.concurrency))
    try:
        while True:
            while stopped is None and len(running) < backend.concurrency and (item := next(waiting, None)) is not None:
                running[pool.submit(_processed, task, [item], backend)] = item
            if not running:
                break
            keep(wait(running, return_when=FIRST_COMPLETED).done)
            if _is_stop(stopped):
                break
    except KeyboardInterrupt as error:
        stopped = stopped or error
    finally:
        if _is_stop(stopped):
            keep(wait(running, KEEP_SECONDS).done)
        pool.shutdown(wait=not _is_stop(stopped), cancel_futures=True)
    if stopped is not None:
        raise stopped


def _is_stop(stopped: BaseException | None) -> bool:
    """Whether the user asked to stop, who will not wait for a request that takes long."""
    return isinstance(stopped, KeyboardInterrupt)


__all__ = ["DATA", "BudgetSpent", "Journal", "run"]
