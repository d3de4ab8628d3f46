"""Columns that match no format: the mapping that is offered, and that it works as it is typed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.config.overrides import parse
from ftcli.data.formats.registry import FORMATS, columns_error
from ftcli.data.formats.suggest_columns import suggested_columns

LONG = "a long answer with many words " * 5
TURNS = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
GUESSES = [
    (
        {"Customer Question": "Where?", "Agent Reply": LONG},
        {"question": "Customer Question", "answer": "Agent Reply"},
    ),
    ({"Agent Reply": LONG, "Customer Question": "Where?"}, {"question": "Customer Question", "answer": "Agent Reply"}),
    ({"Frage": "Wo?", "Antwort": LONG}, {"question": "Frage", "answer": "Antwort"}),
    ({"q": "x", "a": LONG}, {"question": "q", "answer": "a"}),
    ({"id": 7, "source_text": "x", "target_text": "y"}, {"prompt": "source_text", "completion": "target_text"}),
    ({"Prompt": "p", "Completion": "c"}, {"prompt": "Prompt", "completion": "Completion"}),
    ({"userMessage": "x", "botMessage": "y"}, {"question": "userMessage", "answer": "botMessage"}),
    ({"problem": "x", "solution": "y", "level": "3"}, {"question": "problem", "answer": "solution"}),
    ({"query": "q", "good": "a", "bad": "b"}, {"prompt": "query", "chosen": "good", "rejected": "bad"}),
    ({"conversation_log": TURNS}, {"messages": "conversation_log"}),
    ({"body": "abc"}, {"text": "body"}),
    ({"it's": "x", 'say "it"': "y"}, {"question": "it's", "answer": 'say "it"'}),
    ({"Ask: (1), a=b": "x", "null": "y"}, {"question": "Ask: (1), a=b", "answer": "null"}),
]
METHODS = {"chosen": "method=dpo", "text": "method=pretrain"}


@pytest.mark.parametrize(("row", "mapping"), GUESSES, ids=lambda each: ", ".join(each))
def test_the_mapping_that_is_offered(row, mapping):
    assert suggested_columns(row, list(FORMATS.values())) == mapping


@pytest.mark.parametrize(("row", "mapping"), GUESSES, ids=lambda each: ", ".join(each))
def test_the_mapping_works_as_it_is_typed(here, capsys, row, mapping):
    Path("rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    method = next((METHODS[ours] for ours in mapping if ours in METHODS), "method=sft")
    assert main(["check", "rows.jsonl", method]) == 2
    told = capsys.readouterr().err
    command = told.partition("if the columns mean that, add ")[2].partition("; else")[0]
    [override] = shlex.split(command)  # as a shell reads it
    assert parse(override).value == mapping
    assert main(["check", "rows.jsonl", method, override]) == 0
    assert main(["data", "check", "--rows-only", "rows.jsonl", method, override]) == 0


@pytest.mark.parametrize("row", [{"a": 1, "b": 2}, {"ticket": "x", "name": "Bob", "notes": LONG}, {}])
def test_without_a_likely_meaning_none_is_offered(row):
    assert suggested_columns(row, list(FORMATS.values())) is None
    assert "data.columns={ours: theirs}" in columns_error(row, "rows.jsonl:1").fix


def test_the_nearest_formats_begin_with_those_that_the_mapping_makes():
    what = columns_error({"Customer Question": "Where?", "Agent Reply": LONG}, "rows.jsonl:1").what
    assert what.partition("The nearest are ")[2].startswith("query_response (")


def test_a_set_of_a_mix_is_mapped_by_its_own_setting(here, problems):
    Path("rows.jsonl").write_text(json.dumps({"Frage": "Wo?", "Antwort": "Da."}) + "\n", encoding="utf-8")
    [problem] = problems("data.mix={ours: {path: rows.jsonl}}", "data.path=null")
    assert "'data.mix.ours.columns={question: Frage, answer: Antwort}'" in problem
