"""A case that passed is not run again with the same code; one that failed, or that other code ran, is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import common
from tests.chaos import journal


def test_only_what_passed_with_the_same_code_is_kept(tmp_path: Path):
    ran: list[str] = []

    def carry_out(case: str, fault: str = "") -> journal.Outcome:
        ran.append(case)
        return journal.Outcome(case=case, kind=case[0], faults=[fault] if fault else [], seconds=0.25)

    file = tmp_path / "deep" / "journal.jsonl"
    first = journal.Journal(file, "code 1")
    found = first.through(["a1", "a2", "b1"], lambda case: carry_out(case, "broken" if case == "a2" else ""))
    assert journal.by_kind(found) == {
        "a": {"cases": 2, "passed": 1, "seconds": 0.5},
        "b": {"cases": 1, "passed": 1, "seconds": 0.2},
    }
    with file.open("a", encoding="utf-8") as lines:
        lines.write('{"case": "b2", "di')  # cut while it was written
    ran.clear()
    assert len(journal.Journal(file, "code 1").through(["a1", "a2", "b1"], carry_out)) == 3
    assert ran == ["a2"]
    journal.Journal(file, "code 1").through(["a1", "a2", "b1"], carry_out)
    assert ran == ["a2"]
    ran.clear()
    journal.Journal(file, "code 2").through(["a1", "a2"], carry_out)
    assert ran == ["a1", "a2"]


def test_the_digest_is_of_the_package_and_of_what_draws_the_cases():
    digests = {journal.code_digest(), journal.code_digest("kills.py"), journal.code_digest("hostile*.py")}
    assert len(digests) == 3
    assert journal.code_digest("kills.py") in digests


def test_results_stand_beside_those_of_the_other_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (journal, common):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    log = journal.Journal(tmp_path / "kills.jsonl", "code")
    found = log.through(["a1", "b1"], lambda case: journal.Outcome(case=case, kind=case[0], faults=[], seconds=1.0))
    assert journal.told("damage", log, found[:1], save=True) == 0
    (file,) = tmp_path.glob("*.json")
    assert file.name == "chaos.json"
    file.write_text(file.read_text(encoding="utf-8").replace(common.versions()["torch"], "0.1"), encoding="utf-8")
    journal.told("kills", log, [], save=True)
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert kept["versions"] == common.versions()
    assert kept["kills"]["kinds"] == kept["damage"]["kinds"]  # a call for a few cases keeps those of the calls before
    assert list(kept["kills"]["kinds"]) == ["a", "b"]
    failed = journal.Outcome(case="c1", kind="c", faults=["broken"], seconds=1.0)
    assert journal.told("kills", log, [log.write(failed)], save=False) == 1
