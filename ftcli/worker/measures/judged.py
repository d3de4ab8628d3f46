"""Two models side by side: a judge compares their greedy answers in both orders.

The judge is that of a synthesis stage (ftcli/synthesis/tasks.py): a winner in only one order is a tie, since judges
tend to prefer the answer that is shown first, and two equal answers are one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ftcli.data.formats.conversations import answer_to
from ftcli.data.scan import Example
from ftcli.synthesis.backend import Backend
from ftcli.synthesis.journal import Item
from ftcli.synthesis.tasks import UNREADABLE, ItemResult, Judge
from ftcli.worker.inference import metrics
from ftcli.worker.inference.answer_reader import AnswerReader
from ftcli.worker.inference.examples import prompt_of
from ftcli.worker.measures import intervals
from ftcli.worker.measures.subjects import Subject
from ftcli.worker.process import interruption

WIN, TIE, LOSS, UNREAD = "wins", "ties", "losses", "unreadable"
_WORTH = {WIN: 1.0, TIE: 0.5, LOSS: 0.0}


def answers_of(subject: Subject, examples: Sequence[Example], max_new_tokens: int, batch_size: int) -> list[str]:
    """A model's greedy answer to each row's prompt, without its reasoning."""
    ids = [subject.encoder.prompt_ids(prompt_of(each), each.value) for each in examples]
    with metrics.undisturbed(), metrics.evaluating(subject.model):
        given = metrics.generate(
            subject.model, subject.encoder.tokenizer, ids, batch_size=batch_size, max_new_tokens=max_new_tokens
        )
    reader = AnswerReader(subject.encoder)
    return [reader.final(*each).strip() for each in zip(ids, given, strict=True)]


def compare(
    prompts: Sequence[Any], ours: Sequence[str], theirs: Sequence[str], judge: Judge, backend: Backend
) -> dict[str, Any]:
    """How often our answer is the better one.

    Returns:
        {"estimate": of the win rate, a tie as half a win and unreadable verdicts left out, or None where all are so;
        "counts": of wins, ties, losses and unreadable verdicts; "first_shown_wins": the share of verdicts for the
        answer that was shown first, or None, 0.5 for a judge whom the order does not sway; "verdicts": of each pair}.

    Raises:
        BudgetSpent: the backend's budget is spent.
    """
    pairs = zip(prompts, ours, theirs, strict=True)
    items = [Item(str(i), {"prompt": prompt, "answers": list(both)}) for i, (prompt, *both) in enumerate(pairs)]
    results = _results(items, judge, backend)
    verdicts = [_verdict(item, result) for item, result in zip(items, results, strict=True)]
    counts = Counter(verdicts)
    known = [_WORTH[verdict] for verdict in verdicts if verdict in _WORTH]
    swayed = [each.notes["first_shown_wins"] for each in results if "first_shown_wins" in each.notes]
    return {
        "estimate": intervals.estimate(known) if known else None,
        "counts": {name: counts[name] for name in (WIN, TIE, LOSS, UNREAD)},
        "first_shown_wins": sum(swayed) / len(swayed) if swayed else None,
        "verdicts": verdicts,
    }


def _results(items: Sequence[Item], judge: Judge, backend: Backend) -> list[ItemResult]:
    found: list[ItemResult] = []
    if backend.batch_size:
        for start in range(0, len(items), backend.batch_size):
            interruption.reached(start, len(items), "verdicts")
            found += judge.process(items[start : start + backend.batch_size], backend.replies)
        return found
    pool = ThreadPoolExecutor(max(1, backend.concurrency))
    try:
        for [each] in pool.map(lambda item: judge.process([item], backend.replies), items):
            interruption.reached(len(found), len(items), "verdicts")
            found.append(each)
    finally:
        # A stop waits for no reply: each may take as long as the endpoint's timeout.
        pool.shutdown(wait=not interruption.name(), cancel_futures=True)
    return found


def _verdict(item: Item, result: ItemResult) -> str:
    if result.dropped == UNREADABLE:
        return UNREAD
    if result.row is None:  # the same answer twice, none at all, or a winner in one order only
        ours, theirs = (bool(text) for text in item.row["answers"])
        return TIE if ours == theirs else WIN if ours else LOSS
    prompt, (ours_text, _) = item.row["prompt"], item.row["answers"]
    return WIN if result.row["chosen"] == answer_to(prompt, ours_text) else LOSS
