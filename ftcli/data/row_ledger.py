"""The row ledger: what became of every row of a set, so that none disappears silently.

The sum always holds: rows read = rows kept + rows held out + rows dropped, each drop under its reason. An unusable row
is an error and counts towards `data.max_bad_share`; a row that only fails a quality check never stops a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.core.errors import DataError, Problem, RowProblem

MOST_SHOWN = 20
"""How many faults of a kind are shown; all of them are counted."""
UNUSABLE, OVERLONG, UNTRAINED = "unusable", "longer than data.max_length_tokens", "no token to train"
BEYOND = "beyond data.max_eval_rows"
OVERFLOW, DUPLICATE, LEAK, BOUNDARY, SPECIAL = "overflow", "duplicate", "leak", "boundary", "special token"
UNREAD = "unread"
LEFT_OUT = "left out by the template"
ALIKE, LEAK_ALIKE = "normalised duplicate", "normalised leak"
NEAR, NEAR_LEAK = "near-duplicate", "near leak"
KINDS: Mapping[str, str] = {
    OVERFLOW: "the row is longer than data.max_length_tokens",
    DUPLICATE: "the same row occurs earlier, in this set or another one of the mix",
    LEAK: "a held-out row, or its prompt, is in the training rows too",
    ALIKE: "an earlier row differs only in case, white space, Unicode form, or punctuation at the ends of a text",
    LEAK_ALIKE: "a row, or a prompt, of the training rows differs from a held-out one only in these things",
    NEAR: "an earlier row has most of its text in common with this one (data.near_duplicates)",
    NEAR_LEAK: "a training row has most of its text in common with a held-out one (data.near_duplicates)",
    BOUNDARY: "the last token of a text prompt merges with the answer, so the answer starts one token earlier",
    LEFT_OUT: "the chat template leaves out a text, call, tool or reasoning, which the model then does not read",
    SPECIAL: "a text contains what the tokenizer reads as a special token, other than at its own place",
    UNREAD: "a column that means something is not read: images, labels, a system text, tools, context",
}
"""Quality checks on tokens and across rows; those on the text of one row are in quality_checks.py."""
_ROWS = ("rows_read", "rows_kept", "rows_held_out", "rows_mixed")
_UNROLLED = ("unrolled", "unrolled_examples", "repeated_tokens")
_TOKENS = ("truncated", "lost_end", "split", *_UNROLLED, "sequences", "packed", "tokens", "trained_tokens")
"""Counts that add up over sets."""
_QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass
class Shown:
    """One quality check: how many rows failed it, and the first of them."""

    rows: int = 0
    first: list[dict[str, str]] = field(default_factory=list)

    def add(self, where: str, row_field: str, what: str) -> None:
        """Count one more."""
        self.rows += 1
        if len(self.first) < MOST_SHOWN:
            self.first.append({"where": where, "field": row_field, "what": what})


@dataclass
class Ledger:
    """The rows of one set, or of several together. Token counts are 0 until the rows are tokenised."""

    name: str
    path: str
    format: str = ""
    rows_read: int = 0
    rows_kept: int = 0
    rows_held_out: int = 0
    """Rows of this set that are validated on instead."""
    rows_mixed: int = 0
    """Rows that the mix takes of those kept, counting repeats."""
    text_forms: Counter[str] = field(default_factory=Counter)
    """Text pairs and prompts by how they are read (`formats/text_form.py`)."""
    dropped: Counter[str] = field(default_factory=Counter)
    errors: list[dict[str, str]] = field(default_factory=list)
    """The first unusable rows."""
    findings: dict[str, Shown] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    """Usable rows by column that they hold and that the format does not read."""
    truncated: int = 0
    lost_end: int = 0
    """Truncated rows that lost their end token with it."""
    split: int = 0
    unrolled: int = 0
    """Conversations of which each trained turn is a training example of its own, counting repeats in a mix."""
    unrolled_examples: int = 0
    """The training examples of these conversations."""
    repeated_tokens: int = 0
    """The tokens that they have beyond those of the longest example of each, since they repeat what comes before."""
    sequences: int = 0
    """Sequences from these rows: more than rows after splitting, fewer after packing."""
    packed: int = 0
    """Blocks that rows were packed into; 0 without packing."""
    tokens: int = 0
    trained_tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Usable rows by length in tokens, before any was dropped or truncated."""
    on_unusable: Callable[[Problem], None] | None = None
    """Called for every unusable row."""

    @property
    def rows_bad(self) -> int:
        """Unusable rows."""
        return self.dropped[UNUSABLE]

    def begin_again(self) -> None:
        """Reset every count."""
        self.__dict__.update(Ledger(self.name, self.path, on_unusable=self.on_unusable).__dict__)

    def error(self, problem: Problem) -> None:
        """Count a row that cannot be used."""
        self.rows_read += 1
        self.unusable(problem)

    def unusable(self, problem: Problem) -> None:
        """Count a row that turned out to be unusable after it was counted as read."""
        self.dropped[UNUSABLE] += 1
        if self.on_unusable is not None:
            self.on_unusable(problem)
        if len(self.errors) < MOST_SHOWN:
            row_field = problem.field if isinstance(problem, RowProblem) else ""
            shown = {"where": problem.where, "field": row_field, "what": problem.what, "fix": problem.fix}
            self.errors.append(shown)

    def finding(self, kind: str, where: str, row_field: str, what: str) -> None:
        """Count a failed quality check of a usable row."""
        self.findings.setdefault(kind, Shown()).add(where, row_field, what)

    def unread_column(self, where: str, column: str, fix: str | None) -> None:
        """Count a row with a column that is not read; one that means something, with its remedy, is a finding too."""
        self.unread[column] += 1
        if fix is not None:
            shown = self.findings.setdefault(UNREAD, Shown())
            shown.rows += 1
            if self.unread[column] == 1 and len(shown.first) < MOST_SHOWN:
                shown.first.append({"where": where, "field": column, "what": f"is not read: {fix}"})

    def shown(self, kind: str) -> list[dict[str, str]]:
        """The first rows that failed a quality check."""
        return self.findings[kind].first if kind in self.findings else []

    def sequence(self, total: int, trained: int) -> None:
        """Count a sequence by its tokens and its trained tokens."""
        self.sequences += 1
        self.tokens += total
        self.trained_tokens += trained

    def unroll(self, rows: int, examples: int, total: int, longest: int) -> None:
        """Count unrolled conversations: their examples, the tokens of all of these, and of the longest of each."""
        self.unrolled += rows
        self.unrolled_examples += examples
        self.repeated_tokens += total - longest

    def cut(self, overflow: str, loses_end: bool) -> None:
        """Count a row that had to be split or truncated."""
        self.split += overflow == "split"
        self.truncated += overflow != "split"
        self.lost_end += loses_end

    def to_dict(self) -> dict[str, Any]:
        """The ledger as JSON; `length_tokens` holds quantiles over the usable rows."""
        return {
            "name": self.name,
            "path": self.path,
            "format": self.format,
            **({"text_forms": dict(self.text_forms)} if self.text_forms else {}),
            **{name: getattr(self, name) for name in (*_ROWS, "rows_bad")},
            "dropped": {reason: count for reason, count in self.dropped.items() if count},
            "errors": self.errors,
            "findings": {kind: {"rows": f.rows, "first": f.first} for kind, f in self.findings.items()},
            "unread": dict(self.unread),
            **{name: getattr(self, name) for name in _TOKENS},
            "length_tokens": quantiles(self.lengths),
        }

    @classmethod
    def from_base(cls, raw: Mapping[str, Any]) -> Ledger:
        """The ledger of rows that were read earlier, from `to_dict`; without their lengths."""
        ledger = cls(raw["name"], raw["path"], raw["format"], rows_read=raw["rows_read"])
        ledger.text_forms.update(raw.get("text_forms", {}))
        ledger.dropped.update(raw["dropped"])
        ledger.unread.update(raw["unread"])
        ledger.errors = list(raw["errors"])
        ledger.findings = {kind: Shown(f["rows"], list(f["first"])) for kind, f in raw["findings"].items()}
        return ledger


def quantiles(lengths: Mapping[int, int]) -> dict[str, int]:
    """Quantiles of lengths given as {length: rows}; {} for none. Each quantile is the length of some row."""
    reached, cumulative = 0, []
    for length, count in sorted(lengths.items()):
        reached += count
        cumulative.append((reached, length))
    return {
        name: next(length for below, length in cumulative if below > share * (reached - 1))
        for name, share in _QUANTILES.items()
        if cumulative
    }


def together(ledgers: Iterable[Ledger], name: str) -> Ledger:
    """The sum of several sets' ledgers."""
    sets = list(ledgers)
    total = Ledger(name, ", ".join(each.path for each in sets), ", ".join(dict.fromkeys(e.format for e in sets)))
    for each in sets:
        for counted in (*_ROWS, *_TOKENS):
            setattr(total, counted, getattr(total, counted) + getattr(each, counted))
        total.text_forms.update(each.text_forms)
        total.dropped.update(each.dropped)
        total.lengths.update(each.lengths)
        total.unread.update(each.unread)
        total.errors += each.errors[: MOST_SHOWN - len(total.errors)]
        for kind, shown in each.findings.items():
            into = total.findings.setdefault(kind, Shown())
            into.rows += shown.rows
            into.first += shown.first[: MOST_SHOWN - len(into.first)]
    return total


def refuse_bad_rows(ledgers: Iterable[Ledger], max_bad_share: float) -> None:
    """Stop if the share of unusable rows exceeds the allowed one.

    Raises:
        DataError: the first unusable rows, each with its place, and how many there are.
    """
    sets = list(ledgers)
    bad, read = sum(each.rows_bad for each in sets), sum(each.rows_read for each in sets)
    if not bad or bad <= max_bad_share * read:
        return
    shown = [error for each in sets for error in each.errors][:MOST_SHOWN]
    problems: list[Problem] = [RowProblem(e["where"], e["what"], e["fix"], field=e["field"]) for e in shown]
    where = ", ".join(each.path for each in sets if each.rows_bad)
    more = f", of which the first {len(shown)} are shown" if bad > len(shown) else ""
    what = f"{bad} of {read} rows are unusable{more}; data.max_bad_share allows {max_bad_share:g}"
    needed = -(-bad * 1000 // read) / 1000
    # Skipping all of them would leave nothing to train on.
    skip = f", or skip them with data.max_bad_share={needed:g}" if bad < read else ": no row is usable"
    problems.append(Problem(where, what, f"fix them{skip}"))
    raise DataError(*problems)
