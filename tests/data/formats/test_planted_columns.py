"""Nothing that means something vanishes: every such column, beside every format under every method, is seen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ftcli.core.errors import DataError
from ftcli.data.files.locate import SourcePath, locate
from ftcli.data.formats.registry import FORMATS, converted_type, recognise
from ftcli.data.row_ledger import UNREAD, Ledger
from ftcli.data.scan import Scan
from ftcli.methods import all_methods
from ftcli.settings.groups import SetSettings
from tests.data.formats.test_formats import ROUND_TRIPS
from tests.turns import GPT_SAYS, HUMAN_ASKS, TOOL, assistant, user

ROWS: dict[str, dict[str, Any]] = {
    **{name: row for name, row, _ in reversed(ROUND_TRIPS)},
    "sharegpt_preference": {"conversations": [HUMAN_ASKS], "chosen": "4", "rejected": "5"},
    "alpaca_preference": {"instruction": "2 + 2?", "chosen": "4", "rejected": "5"},
    "preference_messages": {"prompt": "2 + 2?", "chosen": [assistant("4")], "rejected": [assistant("5")]},
    "preference_text": {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
    "openai_preference": {
        "input": {"messages": [user("2 + 2?")]},
        "preferred_output": [assistant("4")],
        "non_preferred_output": [assistant("5")],
    },
    "messages_rejected": {"messages": [user("2 + 2?"), assistant("4")], "rejected": "5"},
    "pair_rejected": {"query": "2 + 2?", "response": "4", "rejected": "5"},
    "labelled_messages": {"messages": [user("2 + 2?"), assistant("4")], "label": True},
    "labelled": {"prompt": "2 + 2?", "completion": "4", "label": True},
    "labelled_alpaca": {"instruction": "2 + 2?", "output": "4", "label": True},
    "labelled_query_response": {"question": "2 + 2?", "answer": "4", "label": True},
    "ranked_messages": {"messages": [user("2 + 2?")], "responses": ["4", "5"], "scores": [2, 1]},
    "messages": {"messages": [user("2 + 2?"), assistant("4")]},
    "sharegpt": {"conversations": [HUMAN_ASKS, GPT_SAYS]},
    "alpaca": {"instruction": "2 + 2?", "output": "4"},
    "prompt_completion": {"prompt": "2 + 2?", "completion": "4"},
    "query_response": {"question": "2 + 2?", "answer": "4"},
    "text": {"text": "Two and two are four."},
    "ranked_alpaca": {"instruction": "2 + 2?", "responses": ["4", "5"], "scores": [2, 1]},
    "ranked": {"prompt": "2 + 2?", "responses": ["4", "5"], "scores": [2, 1]},
    "prompt": {"prompt": "2 + 2?"},
}
PLANTED: dict[str, Any] = {
    "system": "PLANTED",
    "system_prompt": "PLANTED",
    "systemPrompt": "PLANTED",
    "sytem": "PLANTED",
    "history": [["1?", "PLANTED"]],
    "chat_history": [["1?", "PLANTED"]],
    "tools": [{**TOOL, "description": "PLANTED"}],
    "functions": [{**TOOL, "description": "PLANTED"}],
    "tool": [{**TOOL, "description": "PLANTED"}],
    "input": "PLANTED",
    "context": "PLANTED",
    "documents": ["PLANTED"],
    "passages": ["PLANTED"],
    "image": "PLANTED.png",
    "images": ["PLANTED.png"],
    "videos": ["PLANTED.mp4"],
    "audio": "PLANTED.wav",
    "label": "PLANTED",
    "labels": False,
    "kto_tag": False,
    "is_good": False,
    "lable": "PLANTED",
    "weight": 0.5,
    "loss_weight": 0.5,
    "margin": 0.5,
    "reasoning": "PLANTED",
    "thinking": "PLANTED",
    "rejected": "PLANTED",
    "instruction": "PLANTED",
}
"""Columns that mean something, with a value that can be found again or changes what the row is."""
PLAIN = {
    "id": 7,
    "source": "PLANTED",
    "prompt_id": "x",
    "image_id": 3,
    "question_type": "sum",
    "lang": "en",
    "story": "a",
}
"""Columns that mean nothing for training."""
PAIRS = [(name, method) for name, fmt in FORMATS.items() for method in all_methods().values()
         if converted_type(fmt.kind, method.kinds)]  # fmt: skip


def scanned(tmp_path, rows: list[dict[str, Any]], method: str, **how: Any) -> tuple[list[Any], Ledger]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    files = locate(SourcePath(path=str(path)), "data.path", fetch=False)
    assert files is not None
    ledger = Ledger("data", str(path))
    return list(Scan(files, SetSettings(path=str(path), **how), all_methods()[method], ledger)), ledger


def test_every_format_has_a_row_here():
    assert set(ROWS) == set(FORMATS)
    assert all(FORMATS[name].recognise(row) for name, row in ROWS.items())


@pytest.mark.parametrize(("name", "method"), [(name, method.name) for name, method in PAIRS])
def test_a_column_that_means_something_is_read_refused_or_named(tmp_path, name, method):
    bare, _ = scanned(tmp_path, [ROWS[name]], method)
    for column, value in PLANTED.items():
        if column in ROWS[name]:
            continue
        row = {**ROWS[name], column: value}
        fmt = recognise(row)
        assert fmt is not None
        if converted_type(fmt.kind, all_methods()[method].kinds) is None:
            with pytest.raises(DataError, match="this data set holds"):
                scanned(tmp_path, [row], method)
            continue
        found, ledger = scanned(tmp_path, [row], method)
        named = [one["field"] for one in ledger.shown(UNREAD)]
        if ledger.errors or column in named:
            assert column not in named or ledger.unread[column] == 1
            continue
        # Read: its content is part of the example, or it makes the example another one.
        assert (found[0].value, found[0].row_weight) != (bare[0].value, bare[0].row_weight), column
        assert "PLANTED" in json.dumps(found[0].value) or not isinstance(value, str | list), column


@pytest.mark.parametrize(("name", "method"), [(name, method.name) for name, method in PAIRS])
def test_a_column_that_means_nothing_is_counted_and_not_warned_of(tmp_path, name, method):
    beside = {column: value for column, value in PLAIN.items() if column not in ROWS[name]}
    _, ledger = scanned(tmp_path, [{**ROWS[name], **beside}] * 2, method)
    assert ledger.errors == []
    assert UNREAD not in ledger.findings
    rewarded = FORMATS[name].kind == "prompt" and all_methods()[method].rewarded
    counted = {} if rewarded else dict.fromkeys(beside, 2)
    assert ledger.to_dict()["unread"] == counted


CONTEXT = {"system": "Be brief.", "history": [["1?", "1"]], "functions": [TOOL]}


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt.kind != "text"])
def test_every_format_reads_the_same_context(tmp_path, name):
    method = next(method for other, method in PAIRS if other == name)
    (found,), ledger = scanned(tmp_path, [{**ROWS[name], **CONTEXT}], method.name)
    turns = found.value.get("messages") or found.value["prompt"]
    assert [turn["role"] for turn in turns[:4]] == ["system", "user", "assistant", "user"]
    assert [turn["content"] for turn in turns[:4]] == ["Be brief.", "1?", "1", "2 + 2?"]
    assert found.value["tools"] == [{"type": "function", "function": TOOL}]
    assert turns[2].get("weight", 0) == 0  # an earlier answer is never trained
    assert (ledger.errors, dict(ledger.unread)) == ([], {})


@pytest.mark.parametrize(
    ("columns", "name", "what"),
    [
        ({"label": "note"}, "alpaca", "data.columns maps note to label, which format alpaca does not read"),
        ({"sytem": "note"}, "messages", "data.columns maps note to sytem, which format messages does not read"),
        ({"system": "note"}, "text", "data.columns maps note to system, which format text does not read"),
        ({"query": "note"}, "alpaca", "data.columns maps note to query, which format alpaca does not read"),
    ],
)
def test_a_mapped_column_that_is_not_read_is_an_error(tmp_path, columns, name, what):
    with pytest.raises(DataError) as caught:
        scanned(tmp_path, [{**ROWS[name], "note": "a"}], "sft", columns=columns, format=name)
    assert caught.value.problems[0].what == what
    assert FORMATS[name].needs[0].names[0] in caught.value.problems[0].fix


def test_a_mapped_column_is_read(tmp_path):
    row = {"sys": "Be brief.", "q": "2 + 2?", "a": "4"}
    (found,), ledger = scanned(tmp_path, [row], "sft", columns={"system": "sys", "prompt": "q", "completion": "a"})
    assert found.value["prompt"][0] == {"role": "system", "content": "Be brief."}
    assert dict(ledger.unread) == {}


@pytest.mark.parametrize(
    ("beside", "what"),
    [
        ({"system": "a", "system_prompt": "b"}, "system and system_prompt hold different things"),
        ({"tools": [TOOL], "functions": [{**TOOL, "name": "b"}]}, "tools and functions hold different things"),
        ({"history": "a"}, "history is the text 'a', not a list"),
    ],
)
@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt.kind != "text"])
def test_a_context_that_contradicts_itself_is_an_error_of_the_row(tmp_path, name, beside, what):
    method = next(method for other, method in PAIRS if other == name)
    _, ledger = scanned(tmp_path, [{**ROWS[name], **beside}], method.name)
    assert [error["what"] for error in ledger.errors] == [what]


@pytest.mark.parametrize(
    ("column", "fix"),
    [
        ("sytem", "did you mean system? (data.columns={system: sytem})"),
        ("sys", "map it with data.columns={system: sys}, or remove the column"),
        ("chat_history", "map it with data.columns={history: chat_history}, or remove the column"),
        ("wieght", "did you mean weight? (data.columns={weight: wieght})"),
        ("importance", "map it with data.columns={weight: importance}, or remove the column"),
        ("context", "map it with data.columns={input: context}, or remove the column"),
        ("images", "only text is trained, so remove the rows that need it, or remove the column"),
    ],
)
def test_what_is_not_read_is_named_with_its_remedy(tmp_path, column, fix):
    _, ledger = scanned(tmp_path, [{**ROWS["query_response"], column: [["a", "b"]]}] * 3, "sft")
    [shown] = ledger.shown(UNREAD)
    assert (shown["field"], shown["what"], ledger.findings[UNREAD].rows) == (column, f"is not read: {fix}", 3)
    assert shown["where"].endswith("rows.jsonl:1")


# --- labels -----------------------------------------------------------------------------------------------------------

WORDS = [
    *[
        (good, True)
        for good in (True, 1, 1.0, "1", "1.0", "true", "True", "yes", "good", "Desirable", "positive", "up")
    ],
    *[(good, True) for good in ("chosen", "accepted", "thumbs up")],
    *[(bad, False) for bad in (False, 0, 0.0, "0", "0.0", "false", "no", "bad", "undesirable", "NEGATIVE", "down")],
    *[(bad, False) for bad in ("rejected", "thumbs_down")],
]


@pytest.mark.parametrize("column", ["label", "labels", "kto_tag", "is_good", "preference", "thumbs_up"])
def test_a_label_is_read_under_its_usual_names_and_as_a_word(tmp_path, column):
    rows = [{"prompt": f"{index}?", "completion": "4", column: word} for index, (word, _) in enumerate(WORDS)]
    found, ledger = scanned(tmp_path, rows, "kto")
    assert ledger.format == "labelled"
    assert [example.value["label"] for example in found] == [label for _, label in WORDS]


@pytest.mark.parametrize("value", ["fair", 0.5, -1, 2, "sports", [1]])
def test_another_value_in_a_label_column_is_an_error_and_never_a_good_answer(tmp_path, value):
    rows = [{"prompt": "2 + 2?", "completion": "4", "label": value}]
    found, ledger = scanned(tmp_path, rows, "kto")
    assert (found, ledger.rows_bad) == ([], 1)
    with pytest.raises(DataError, match="holds labelled completions") as caught:
        scanned(tmp_path, rows, "sft")
    assert "the columns also match prompt_completion" in caught.value.problems[0].fix
    # named, the format is taken at its word, and the label is named as unread
    found, ledger = scanned(tmp_path, rows, "sft", format="prompt_completion")
    assert (len(found), [one["field"] for one in ledger.shown(UNREAD)]) == (1, ["label"])


def test_a_column_that_is_no_label_by_its_values_is_named(tmp_path):
    found, ledger = scanned(tmp_path, [{**ROWS["prompt_completion"], "feedback": "Nicely put."}], "sft")
    assert (len(found), [one["field"] for one in ledger.shown(UNREAD)]) == (1, ["feedback"])


def test_a_rating_is_named_beside_one_answer_and_not_beside_a_pair(tmp_path):
    _, ledger = scanned(tmp_path, [{**ROWS["alpaca"], "user_rating": 2}], "sft")
    assert [one["field"] for one in ledger.shown(UNREAD)] == ["user_rating"]
    _, ledger = scanned(tmp_path, [{**ROWS["preference_text"], "score_chosen": 2}], "dpo")
    assert (ledger.shown(UNREAD), dict(ledger.unread)) == ([], {"score_chosen": 1})
