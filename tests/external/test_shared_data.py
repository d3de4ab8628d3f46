"""Sets from the wild, unedited: each is recognised, and every row is read and converted, by an independent count."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftcli.data.files.locate import DataFile
from ftcli.data.files.reader import peek_rows, read_rows, resolve_file
from ftcli.data.formats.registry import FORMATS, convert, recognise
from ftcli.data.row_ledger import Ledger
from ftcli.data.scan import Scan
from ftcli.methods import get_method
from ftcli.settings.groups import SetSettings

FOLDER = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no folder ../shared/data beside the project")

EXPECTED = {
    "alpaca_en_demo.json": "alpaca",
    "c4_demo.jsonl": "text",
    "dpo_en_demo.json": "sharegpt_preference",
    "glaive_toolcall_en_demo.json": "sharegpt",
    "identity.json": "alpaca",
    "kto_en_demo.json": "labelled_messages",
}


def independent_rows(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line]


def test_every_set_in_the_folder_is_expected():
    assert {path.name for path in FOLDER.iterdir()} - {"dataset_info.json"} == set(EXPECTED)


@pytest.mark.parametrize(("name", "format_name"), EXPECTED.items())
def test_a_set_is_recognised_and_every_row_is_read_and_converted(name, format_name):
    path = resolve_file(FOLDER / name, "data.path")
    (first,) = peek_rows(path)
    fmt = recognise(first.value)
    assert fmt is FORMATS[format_name]
    rows = list(read_rows(path))
    independent = independent_rows(path)
    assert [row.value for row in rows] == independent
    assert {recognise(row.value) for row in rows} == {fmt}
    assert len([convert(fmt, row) for row in rows]) == len(independent)
    assert not any(fmt.unread(row.value) for row in rows)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.endswith(".json")])
def test_the_line_of_a_row_is_the_one_its_object_starts_on(name):
    # These files are indented by two: a line that is exactly "  {" starts a row.
    lines = (FOLDER / name).read_text(encoding="utf-8").split("\n")
    starts = [number for number, line in enumerate(lines, 1) if line == "  {"]
    assert [row.line for row in read_rows(FOLDER / name)] == starts


def test_tool_calls_keep_their_functions_and_arguments():
    path = FOLDER / "glaive_toolcall_en_demo.json"
    converted = [convert(FORMATS["sharegpt"], row) for row in read_rows(path)]
    called = [
        call["function"] for example in converted for turn in example["messages"] for call in turn.get("tool_calls", [])
    ]
    told = [
        json.loads(turn["value"])
        for row in independent_rows(path)
        for turn in row["conversations"]
        if turn["from"] == "function_call"
    ]
    assert called == told
    declared = sum(bool(json.loads(row["tools"])) for row in independent_rows(path))
    assert sum("tools" in example for example in converted) == declared > 0


def test_judged_answers_keep_their_labels():
    path = FOLDER / "kto_en_demo.json"
    converted = [convert(FORMATS["labelled_messages"], row) for row in read_rows(path)]
    assert [example["label"] for example in converted] == [row["label"] for row in independent_rows(path)]


# --- the ledger against counts of our own ----------------------------------------------------------------------------

FIELDS = {
    "alpaca_en_demo.json": ("instruction", "input", "output"),
    "identity.json": ("instruction", "input", "output"),
    "c4_demo.jsonl": ("text",),
    "dpo_en_demo.json": ("conversations", "chosen", "rejected", "system"),
    "glaive_toolcall_en_demo.json": ("conversations", "tools", "system"),
    "kto_en_demo.json": ("messages", "label"),
}


def row_ledger(name: str) -> dict[str, Any]:
    """What the row check says of a set."""
    path, ledger = FOLDER / name, Ledger(name, name)
    # A method that takes them as they are: there is none yet for labels.
    method = replace(get_method("sft"), kinds=(FORMATS[EXPECTED[name]].kind,))
    for _ in Scan((DataFile(str(path), str(path)),), SetSettings(path=str(path)), method, ledger):
        ledger.rows_kept += 1
    return ledger.to_dict()


def said(row: dict[str, Any], name: str) -> str:
    """All that is read of a row, as JSON that is equal for equal rows; what is blank is as good as not there."""
    return json.dumps({field: row[field] for field in FIELDS[name] if row.get(field)}, sort_keys=True)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_ledger_is_that_of_an_independent_count(name):
    rows, ledger = independent_rows(FOLDER / name), row_ledger(name)
    assert (ledger["rows_read"], ledger["rows_kept"], ledger["dropped"]) == (len(rows), len(rows), {})
    assert ledger["format"] == EXPECTED[name]
    found = {kind: each["rows"] for kind, each in ledger["findings"].items()}
    again = sum(count - 1 for count in Counter(said(row, name) for row in rows).values())
    assert found.get("duplicate", 0) == again
    holders = sum(bool(re.search(r"\{\{ ?\w+ ?\}\}", said(row, name))) for row in rows)
    assert ("placeholder" in found) == (holders > 0)
    if name in ("identity.json", "c4_demo.jsonl", "alpaca_en_demo.json"):
        texts = sum(len(re.findall(r"\{\{ ?\w+ ?\}\}", str(row[field]))) > 0 for row in rows for field in FIELDS[name])
        assert found.get("placeholder", 0) == texts


def test_85_of_the_91_rows_about_identity_hold_a_placeholder_and_are_named():
    rows = independent_rows(FOLDER / "identity.json")
    holding = [index for index, row in enumerate(rows) if "{{" in row["output"]]
    assert (len(rows), len(holding)) == (91, 85)
    found = row_ledger("identity.json")["findings"]["placeholder"]
    assert found["rows"] == 85
    lines = [row.line for row in read_rows(FOLDER / "identity.json")]
    assert [(each["where"], each["field"]) for each in found["first"]] == [
        (f"{FOLDER / 'identity.json'}:{lines[index]}[{index}]", "output") for index in holding[:20]
    ]


def test_the_tokens_of_alpaca_are_those_of_its_chat_template(tmp_path):
    from transformers import AutoTokenizer

    from ftcli import tiny
    from ftcli.settings.groups import DataSettings
    from ftcli.worker.tokenise.dataset import prepare
    from ftcli.worker.tokenise.encoder import Encoder
    from ftcli.worker.tokenise.length_limits import Fitting

    path, tokenizer = FOLDER / "alpaca_en_demo.json", AutoTokenizer.from_pretrained(tiny.MODEL_DIR)
    total = answered = 0
    for row in independent_rows(path):
        asked = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
        whole = tokenizer.apply_chat_template(turns)["input_ids"]
        prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True)["input_ids"]
        assert whole[: len(prompt)] == prompt
        total += len(whole)
        answered += len(whole) - len(prompt) - 1  # all but the line break behind the end token
    data = DataSettings(path=str(path))
    found = prepare(data, get_method("sft"), Encoder(tokenizer), Fitting(None, "drop", 8192), seed=0).ledger()["train"]
    assert (found["tokens"], found["trained_tokens"]) == (total, answered)
    assert (found["rows_read"], found["rows_kept"], found["format"]) == (999, 999, "alpaca")


@pytest.mark.parametrize(
    ("name", "method"),
    [("alpaca_en_demo.json", "sft"), ("glaive_toolcall_en_demo.json", "sft"), ("dpo_en_demo.json", "dpo")],
)
def test_plan_and_run_count_the_same_and_work_out_the_same_length(name, method, tmp_path):
    from ftcli.build.resolve import spec_of
    from ftcli.config.compose import Request
    from ftcli.plan.outlook import plan
    from ftcli.plan.resolved_run import ResolvedRun
    from ftcli.worker.commands.data import inspect

    # The built-in model's template writes no calls, so a run refuses rows that train one.
    rows = [row for row in independent_rows(FOLDER / name) if "function_call" not in json.dumps(row)]
    (tmp_path / name).write_text(json.dumps(rows), encoding="utf-8")
    spec = spec_of(Request(overrides=(f"method={method}", f"data.path={tmp_path / name}")))
    found, planned = inspect({"spec": spec.to_json(), "trust_remote_code": False}), plan(ResolvedRun.of(spec))
    assert {"key": "data.max_length_tokens", **found["max_length_tokens"]} in planned.notes
    assert (planned.rows_kept, planned.tokens_per_epoch) == (found["train"]["rows_kept"], found["train"]["tokens"])
