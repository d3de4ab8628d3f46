"""A row is known by its set, its file and its running number there, however many rows stand on its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcli.data import row_sets
from ftcli.data.row_ledger import Ledger
from ftcli.data.row_sets import RowSet
from ftcli.data.scan import Scan
from ftcli.methods import get_method
from ftcli.settings.groups import DataSettings, SetSettings
from ftcli.worker.commands.preview import preview
from ftcli.worker.inference.examples import examples_of
from ftcli.worker.tokenise.dataset import prepare
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.length_limits import Fitting


def pair(index: int) -> dict[str, Any]:
    return {"prompt": f"Say {index}.", "completion": f"It is {index}."}


def one_line(path: Path, rows: list[Any]) -> Path:
    """The rows as json.dump writes them: an array on one line."""
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def text_of(value: Any) -> str:
    """A prompt or an answer, given as text or as one turn."""
    return value if isinstance(value, str) else value[0]["content"]


def scanned(path: Path, **settings: Any) -> tuple[list[Any], dict[str, Any]]:
    ledger, own = Ledger("data", str(path)), SetSettings(path=str(path), **settings)
    files = row_sets.fetched(RowSet(name="data", key="data.path", settings=own))
    return list(Scan(files, own, get_method("sft"), ledger)), ledger.to_dict()


@pytest.mark.parametrize("share", [0.04, 0.2, 0.5])
def test_the_rows_that_are_scored_are_those_held_out_of_an_array_on_one_line(tokenizer, tmp_path, share):
    path = one_line(tmp_path / "rows.json", [pair(index) for index in range(25)])
    data = DataSettings(path=str(path), eval_share=share)
    fit = Fitting(64, "drop", position_limit=256)
    found = prepare(data, get_method("sft"), Encoder(tokenizer), fit, seed=42, num_score_rows=3)
    held = [tokenizer.decode(ids) for ids in found.held_out["input_ids"]]
    assert len(held) == round(25 * share)
    assert len(found.score_examples) == min(3, len(held))
    for example, text in zip(found.score_examples, held, strict=False):
        assert text_of(example.value["completion"]) in text


def test_bad_rows_and_duplicates_of_an_array_on_one_line_are_told_apart_by_their_index(tmp_path):
    path = one_line(tmp_path / "rows.json", [pair(0), {"prompt": "so"}, pair(2), 7, pair(2), pair(0)])
    rows, ledger = scanned(path)
    assert [row.where for row in rows] == [f"{path}:1[{index}]" for index in (0, 2, 4, 5)]
    assert [(row.number, row.line) for row in rows] == [(0, 1), (2, 1), (4, 1), (5, 1)]
    assert [each["where"] for each in ledger["errors"]] == [f"{path}:1[1]", f"{path}:1[3]"]
    assert [(each["where"], each["what"]) for each in ledger["findings"]["duplicate"]["first"]] == [
        (f"{path}:1[4]", f"is the same as {path}:1[2]"),
        (f"{path}:1[5]", f"is the same as {path}:1[0]"),
    ]


def test_unusable_rows_count_in_the_running_number_and_blank_lines_do_not(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(pair(0)), "", "no JSON", '{"prompt": "so"}', json.dumps(pair(3))]))
    rows, ledger = scanned(path)
    assert [(row.where, row.number) for row in rows] == [(f"{path}:1", 0), (f"{path}:5", 3)]
    assert ledger["rows_read"] == 4


def test_files_of_one_name_in_two_folders_are_told_apart(tokenizer, tmp_path):
    for at, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        one_line(tmp_path / name / "rows.json", [pair(10 * at + index) for index in range(5)] + [pair(1)])
    rows, ledger = scanned(tmp_path)
    assert [(row.file, row.number) for row in rows] == [(file, number) for file in (0, 1) for number in range(6)]
    assert [(each["where"], each["what"]) for each in ledger["findings"]["duplicate"]["first"]] == [
        (f"{tmp_path}/a/rows.json:1[5]", f"is the same as {tmp_path}/a/rows.json:1[1]"),
        (f"{tmp_path}/b/rows.json:1[5]", f"is the same as {tmp_path}/a/rows.json:1[1]"),
    ]
    data = DataSettings(path=str(tmp_path), eval_share=0.5)
    fit = Fitting(64, "drop", position_limit=256)
    found = prepare(data, get_method("sft"), Encoder(tokenizer), fit, seed=1, num_score_rows=6)
    held = [tokenizer.decode(ids) for ids in found.held_out["input_ids"]]
    for example, text in zip(found.score_examples, held, strict=True):
        assert text_of(example.value["prompt"]) in text
    assert {example.file for example in found.score_examples} == {0, 1}


def test_a_leak_across_two_arrays_names_both_elements(tokenizer, tmp_path):
    trained = one_line(tmp_path / "train.json", [pair(0), pair(1), pair(2)])
    held = one_line(tmp_path / "held.json", [pair(5), pair(2)])
    data, fit = DataSettings(path=str(trained), eval_path=str(held)), Fitting(64, "drop", position_limit=256)
    found = prepare(data, get_method("sft"), Encoder(tokenizer), fit, seed=0).ledger()["eval"]["findings"]["leak"]
    assert [(each["where"], each["what"]) for each in found["first"]] == [
        (f"{held}:1[1]", f"the same row is trained on: {trained}:1[2]")
    ]


def test_what_answers_a_file_names_each_element_of_an_array(tmp_path):
    path = one_line(tmp_path / "rows.json", [pair(index) for index in range(3)])
    assert [example.where for example in examples_of(str(path))] == [f"{path}:1[{index}]" for index in range(3)]


def test_a_preview_from_a_line_on_shows_the_elements_from_that_line_on(make_spec, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in (pair(0), {"prompt": "so"}, pair(2))) + "\n]")
    request = {"spec": make_spec(path).to_json(), "rows": 5, "line": 3}
    shown = list(preview(request))
    assert [each.get("where") for each in shown] == [f"{path}:3[1]", f"{path}:4[2]", None]
