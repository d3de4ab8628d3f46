"""The tests of stops, full disks, lost ranks and exit codes in their whole, under the journal of `make chaos`.

    python -m tests.chaos.proofs JOURNAL [--count N] [--kinds KIND,KIND] [--save]

`make test` runs a sample of them. What stops a run by a signal is run three times, since where a signal lands varies.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.chaos import journal

KINDS = {
    "signals in each phase": ("test_stops", 3),
    "disks that fill up": ("test_full_disk", 1),
    "ranks that die or hang": ("test_lost_ranks", 1),
    "exit codes": ("test_exit_codes", 1),
}
"""The module under tests/whole of each kind, and how often its tests are run."""
TIMES_APART = " #"
"""Between the name of a test and the number of its turn."""


@dataclass(kw_only=True)
class Turn:
    """A plugin of pytest that leaves out what has passed, and writes a line for each test that ran."""

    log: journal.Journal
    kind: str
    number: int
    most: int
    """Tests that still may run."""
    found: list[dict[str, object]] = field(default_factory=list)
    ran: int = 0
    _seconds: dict[str, float] = field(default_factory=dict)
    _faults: dict[str, list[str]] = field(default_factory=dict)

    def case(self, test: str) -> str:
        """The name of a test in this turn."""
        return f"{test}{TIMES_APART}{self.number}"

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep what has not passed, as far as it may run."""
        passed = self.log.passed()
        self.found += [passed[self.case(item.nodeid)] for item in items if self.case(item.nodeid) in passed]
        items[:] = [item for item in items if self.case(item.nodeid) not in passed][: self.most]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the seconds and the fault of a part of a test; its last part writes the line."""
        test = report.nodeid
        self._seconds[test] = self._seconds.get(test, 0.0) + report.duration
        if not report.passed:  # what is left out here was not shown either
            self._faults.setdefault(test, []).append(f"{report.outcome}: {report.longreprtext[-1500:]}")
        if report.when == "teardown":
            faults, seconds = self._faults.get(test, []), round(self._seconds[test], 1)
            case = journal.Outcome(case=self.case(test), kind=self.kind, faults=faults, seconds=seconds)
            self.found.append(self.log.write(case))
            self.ran += 1


def turns(log: journal.Journal, kinds: list[str], count: int) -> Iterator[dict[str, object]]:
    """Run the tests of some kinds that have not passed; the lines of all.

    Args:
        count: tests that run at most.
    """
    for kind in kinds:
        module, times = KINDS[kind]
        for number in range(1, times + 1):
            turn = Turn(log=log, kind=kind, number=number, most=count)
            pytest.main(["-n0", f"tests/whole/{module}.py"], plugins=[turn])
            count -= turn.ran
            yield from turn.found


def main() -> int:
    """Run the tests that the journal does not hold yet."""
    options = journal.arguments(__doc__ or "", 1000)
    log = journal.Journal(options.journal, journal.code_digest("proofs.py", "../whole/*.py"))
    wanted = [kind for kind in KINDS if not options.kinds or kind in options.kinds.split(",")]
    return journal.told("proofs", log, turns(log, wanted, options.count), save=options.save)


if __name__ == "__main__":
    os.chdir(journal.REPOSITORY)
    os.environ["FTCLI_PROOF"] = "1"
    sys.exit(main())
