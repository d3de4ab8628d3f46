"""The retention set and its gate: what is refused before a run, and what fails one."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.evaluations.retention import GENERAL, failures, gate_problems, read_set, rows

KINDS = ("facts", "arithmetic", "instructions", "refusals", "language")
FROZEN = "4d91331c130c73239bd4f8678e5e581c6e0ea8a79e5d1db9aa23113e19bce384"


def test_the_built_in_set_has_as_many_rows_of_each_kind_and_stays_as_it_is():
    found = read_set(GENERAL)
    assert found.kinds == KINDS
    assert [sum(row.kind == kind for row in found.rows) for kind in KINDS] == [12] * 5
    # Runs are compared over years: another set gets another name.
    assert found.digest == FROZEN


def test_a_file_of_ones_own_is_a_set(tmp_path: Path):
    file = tmp_path / "own.jsonl"
    file.write_text('{"kind": "law", "prompt": "§ 1?", "completion": "Yes."}\n\n{"kind": "tone", "text": "Dear all"}\n')
    found = read_set(str(file))
    assert found.kinds == ("law", "tone")
    assert found.digest == sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has 0 rows"),
        ("{", ":1  is no JSON"),
        ('{"kind": "a", "text": "b"}\n[]', ":2  is no row"),
        ('{"kind": "a", "prompt": "b"}', "is no row"),
        ('{"kind": "a", "text": ""}', "is no row"),
        ('{"kind": "a", "text": "b", "more": "c"}', "is no row"),
        ('{"kind": "a b", "text": "b"}', "no name of one"),
        ('{"kind": "retention", "text": "b"}', "no name of one"),
        ('{"kind": "a", "text": "' + "b" * 5000 + '"}', "more than 4000 characters"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_a_file_that_is_no_set_is_refused_with_its_line(text, what, tmp_path: Path):
    (tmp_path / "own.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=what):
        read_set(str(tmp_path / "own.jsonl"))


def test_what_is_no_set_is_named():
    for name, what in (("builtin:nothing", "no built-in set"), ("nowhere.jsonl", "cannot be read")):
        with pytest.raises(ConfigError, match=what):
            read_set(name)


@pytest.mark.parametrize(
    ("gate", "what"),
    [
        ({}, "names no measure"),
        ([], "names no measure"),
        ("retention", "names no measure"),
        ({"retentoin": -0.1}, "did you mean retention"),
        ({"fact": -0.1}, "did you mean facts"),
        ({"retention": "-0.1x"}, "is not a number"),
        ({"retention": True}, "is not a number"),
        ({"retention": float("nan")}, "is not a number"),
        ({"retention": 0.02}, "run.gate.retention=-0.02"),
    ],
)
def test_a_gate_is_checked_before_the_run(gate, what):
    [problem] = gate_problems(gate, KINDS)
    assert what in f"{problem}"
    assert [*gate_problems({"retention": -0.02, "facts": 0, "language": -1}, KINDS)] == []


def result(**changes: float) -> dict[str, Any]:
    kinds = {kind: {"difference": {"value": change}} for kind, change in changes.items()}
    mean = sum(changes.values()) / len(changes)
    return {"kinds": kinds, "difference": {"value": mean, "low": mean, "high": mean}, "rows": 24, "set": GENERAL}


def test_a_gate_fails_below_its_limit_and_not_at_it():
    found = result(facts=-0.03, language=0.01)  # the mean is -0.01
    assert failures({"retention": -0.01}, found) == []
    assert failures({"retention": -0.009}, found) == ["retention fell by 0.0100 nats a token, and run.gate takes 0.009"]
    assert failures({"retention": -0.02, "facts": -0.02, "language": 0}, found) == [
        "retention of facts fell by 0.0300 nats a token, and run.gate takes 0.02"
    ]
    assert len(failures({"facts": -5}, result(facts=float("nan")))) == 1


def test_a_report_says_what_was_gained_and_lost_by_kind():
    table = dict(rows({**result(facts=-0.03, language=0.01), "gate": {"retention": -0.02}, "failed": []}))
    assert table["by kind"] == "facts -0.0300, language +0.0100"
    assert table["gate"] == "passed: retention at least -0.02"
    assert "gate" not in dict(rows(result(facts=-0.03)))


def test_a_gate_alone_measures_the_built_in_set_and_a_file_is_found_again(here: Path, problems):
    (here / "own.jsonl").write_text('{"kind": "law", "text": "b"}\n')
    spec = spec_of(Request(overrides=("recipe=demo", "run.gate={retention: -0.02}")))
    assert spec.run.retention == GENERAL
    own = spec_of(Request(overrides=("recipe=demo", "run.retention=own.jsonl", "run.gate={law: -0.02}")))
    assert own.run.retention == str(here / "own.jsonl")
    assert spec_of(Request(overrides=("recipe=demo",))).run.retention is None
    assert "is no measure" in problems("run.retention=own.jsonl", "run.gate={facts: -0.02}")[0]
    assert "no effect" in problems("method=reward", "run.gate={retention: -0.02}")[0]
    assert "cannot be read" in problems("run.retention=nowhere.jsonl")[0]
