"""The same rows are the same out of every file: their numbers, their examples, their tokens, and which are held out."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather
from pyarrow import parquet as pq

from ftcli.data.files.file_types import DataFile
from ftcli.data.row_ledger import Ledger
from ftcli.data.scan import Scan
from ftcli.methods import get_method
from ftcli.settings.groups import DataSettings, SetSettings
from ftcli.worker.tokenise.dataset import prepare
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.length_limits import Fitting
from tests.data.files.test_reader import PACKED
from tests.turns import assistant, user

Rows = list[dict[str, Any]]


def _lines(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: Rows) -> Any:
    """The rows in Arrow, where the schema decides the order of an object's keys: here that of the alphabet."""
    found = pa.Table.from_pylist(rows)
    return found.cast(pa.schema([pa.field(field.name, _alphabetical(field.type)) for field in found.schema]))


def _alphabetical(kind: Any) -> Any:
    if pa.types.is_struct(kind):
        fields = sorted((kind.field(i) for i in range(kind.num_fields)), key=lambda field: field.name)
        return pa.struct([pa.field(field.name, _alphabetical(field.type)) for field in fields])
    return pa.list_(_alphabetical(kind.value_type)) if pa.types.is_list(kind) else kind


def alphabetical(rows: Rows) -> Rows:
    return list(json.loads(json.dumps(rows, sort_keys=True)))


def _cells(path: Path, rows: Rows, delimiter: str) -> None:
    """The rows as CSV, with everything but text as JSON text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, delimiter=delimiter)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})


WRITERS: dict[str, Callable[[Path, Rows], Any]] = {
    "a.jsonl": lambda path, rows: path.write_text(_lines(rows)),
    "one.json": lambda path, rows: path.write_text(json.dumps(rows)),
    "over.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    "a.csv": lambda path, rows: _cells(path, rows, ","),
    "semicolons.csv": lambda path, rows: _cells(path, rows, ";"),
    "a.tsv": lambda path, rows: _cells(path, rows, "\t"),
    "a.parquet": lambda path, rows: pq.write_table(table(rows), path),
    "a.arrow": lambda path, rows: feather.write_feather(table(rows), str(path), compression="zstd"),
    "a.feather": lambda path, rows: feather.write_feather(table(rows), str(path)),
}


def every_file(folder: Path, rows: Rows) -> list[Path]:
    """The rows in every type of file, and two of them in every compression."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name, write in WRITERS.items():
        write(folder / name, rows)
        paths.append(folder / name)
    for suffix, pack in PACKED.items():
        for name in ("a.jsonl", "a.parquet"):
            packed = folder / f"{name}{suffix}"
            packed.write_bytes(pack((folder / name).read_bytes()))
            paths.append(packed)
    return paths


def scanned(path: Path, method: str) -> list[tuple[int, str, Any, int]]:
    """What identifies each row, and what it is."""
    own, ledger = SetSettings(path=str(path)), Ledger("data", str(path))
    scan = Scan((DataFile(str(path), str(path)),), own, get_method(method), ledger)
    found = [(each.number, each.kind, each.value, each.digest) for each in scan]
    assert ledger.rows_bad == 0, ledger.errors
    return found


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).map(
    lambda text: f"x{text}"
)
_CALLED = st.dictionaries(st.sampled_from(("town", "day")), _TEXT, min_size=1)


@st.composite
def _with_tools(draw: Any) -> dict[str, Any]:
    """A conversation with tools whose schemas differ from row to row, and calls of them."""
    arguments = draw(_CALLED)
    schema = {
        name: {"type": "string", **({"description": draw(_TEXT)} if draw(st.booleans()) else {})} for name in arguments
    }
    call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
    return {
        "messages": [user(draw(_TEXT)), assistant("", tool_calls=[call]), {"role": "tool", "content": draw(_TEXT)},
                     assistant(draw(_TEXT))],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"properties": schema}}}],
    }  # fmt: skip


ROWS = {
    "sft": st.lists(_with_tools(), min_size=2, max_size=5),
    "pair": st.lists(st.fixed_dictionaries({"instruction": _TEXT, "output": _TEXT}), min_size=2, max_size=5),
    "dpo": st.lists(
        st.fixed_dictionaries({
            "prompt": st.builds(lambda text: [user(text)], _TEXT),
            "chosen": st.builds(lambda text: [assistant(text)], _TEXT),
            "rejected": st.builds(lambda text: [assistant(text)], _TEXT),
        }),
        min_size=2, max_size=5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_the_same_rows_are_the_same_examples_out_of_every_file(tmp_path, name):
    @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(ROWS[name])
    def check(rows: Rows) -> None:
        method = "sft" if name == "pair" else name
        first, *others = every_file(tmp_path / "files", alphabetical(rows))
        expected = scanned(first, method)
        assert [number for number, *_ in expected] == list(range(len(rows)))
        for path in others:
            # Equal as JSON too: {"a": null} and {} would be two texts of a template.
            assert json.dumps(scanned(path, method)) == json.dumps(expected), path.name

    check()


def talk(index: int) -> dict[str, Any]:
    name = ("town", "day", "hour")[index % 3]
    arguments = {name: f"no {index}", "more": {"deep": [index]}} if index % 2 else {name: f"no {index}"}
    call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
    tool = {"type": "function", "function": {"name": "look", "parameters": {"properties": {name: {"type": "string"}}}}}
    turns = [
        user(f"Look {index}"),
        assistant(f"So {index}.", tool_calls=[call]),
        {"role": "tool", "content": f"{index}"},
    ]
    return {"messages": [*turns, assistant(f"It is {index}.")], "tools": [tool]}


def writing(tokenizer: Any) -> Any:
    """The tokenizer with a template that writes tools and calls as JSON."""
    own = copy.deepcopy(tokenizer)
    own.chat_template = (
        "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return own


def test_the_same_rows_give_the_same_tokens_held_out_rows_and_score_rows(tokenizer, tmp_path):
    encoder, seen = Encoder(writing(tokenizer)), {}
    for path in every_file(tmp_path / "files", alphabetical([talk(index) for index in range(12)])):
        data = DataSettings(path=str(path), eval_share=0.25)
        fit = Fitting(600, "drop", position_limit=1024)
        found = prepare(data, get_method("sft"), encoder, fit, seed=7, num_score_rows=2)
        sides = [[side["input_ids"][:], side["labels"][:]] for side in (found.train, found.held_out)]
        seen[path.name] = (sides, [(each.number, each.value) for each in found.score_examples])
    expected = seen["a.jsonl"]
    assert (len(expected[0][0][0]), len(expected[0][1][0]), len(expected[1])) == (9, 3, 2)
    assert '"hour"' in "".join(encoder.tokenizer.decode(ids) for ids in expected[0][0][0])
    assert {name for name, found in seen.items() if json.dumps(found) != json.dumps(expected)} == set()
