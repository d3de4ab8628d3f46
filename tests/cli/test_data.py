"""`ftcli data check`, `prepare` and `preview`: what they print, as text, JSON and a page, and their exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from ftcli.build.resolve import spec_of
from ftcli.cli import main, preview
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from tests.conftest import REPOSITORY
from tests.faults import NUM_ROWS, as_planted, as_told, errors, plant

TURNS = [{"role": "user", "content": "Tree & <b>stone</b>?"}, {"role": "assistant", "content": "Leaf\n日本"}]
ROWS = [{"messages": TURNS}, {"messages": TURNS[:1]}, {"messages": TURNS * 2}]
PAIR = {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [{"role": "assistant", "content": "No."}]}


def command(ftcli: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    """One whole command in a process of its own, without a terminal."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([*ftcli, "data", *words], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture
def file(here) -> Path:
    path = Path("rows.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def typed(capsys, here):
    """Runs a data command in this process; returns its exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["data", *words])
        return (code, *capsys.readouterr())

    return run


def request(*overrides: str, **more: Any) -> dict[str, Any]:
    spec = spec_of(Request(overrides=overrides))
    return {"spec": spec.to_json(), "trust_remote_code": False, "json": False, **more}


def shown(path: Path, *overrides: str, rows: int = 3, **start: int) -> list[dict[str, Any]]:
    """What the worker's preview yields, made in this process."""
    from ftcli.worker.commands.preview import preview as preview_rows

    return list(preview_rows(request(f"data.path={path}", *overrides, rows=rows, **start)))


# --- whole commands ---------------------------------------------------------------------------------------------------


def test_the_row_check_names_every_planted_fault_and_exits_3(ftcli, here):
    planted = plant(here / "rows.jsonl")
    done = command(ftcli, "check", "rows.jsonl", "--rows-only", "--json")
    assert (done.returncode, done.stderr) == (3, "")
    [ledger] = json.loads(done.stdout)["sets"]
    assert as_told(ledger) == as_planted(planted)
    assert (ledger["rows_read"], ledger["dropped"]) == (NUM_ROWS, {"unusable": len(errors())})


def test_check_answers_in_json_also_where_a_run_would_stop(ftcli, file):
    done = command(ftcli, "check", "rows.jsonl", "--json")
    assert (done.returncode, done.stderr) == (3, "")
    first, last = json.loads(done.stdout)["problems"]
    assert (first["where"], first["field"]) == (f"{file.resolve()}:2", "messages")
    assert "1 of 3 rows are unusable" in last["what"]


def test_preview_marks_what_is_trained_where_there_is_no_terminal(ftcli, file):
    done = command(ftcli, "preview", "rows.jsonl", "--rows", "2")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    answer = "<|im_start|>user\n Tree & <b>stone</b>?<|im_end|>\n<|im_start|>assistant\n⟦ Leaf\n日本<|im_end|>⟧\n"
    assert answer in done.stdout
    assert f"{file.resolve()}:2  unusable: messages has no assistant turn" in done.stdout
    assert "rows.jsonl:3" not in done.stdout


def test_prepare_leaves_what_a_run_finds(ftcli, file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = command(ftcli, "prepare", "rows.jsonl", "data.max_bad_share=0.4", "method.packing=false")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "cache" / "ftcli" / "prepared"
    assert f"prepared in {folder}; a run with the same data" in done.stdout
    assert "3 read: 2 kept, 1 dropped: unusable" in done.stdout
    before = sorted(path.name for path in folder.glob("[0-9a-f]*"))
    assert len(before) == 1
    from ftcli.worker.commands.data import inspect
    from ftcli.worker.tokenise import store

    store.folder.cache_clear()
    inspect(request(f"data.path={file.resolve()}", "data.max_bad_share=0.4", "method.packing=false"))
    assert sorted(path.name for path in folder.glob("[0-9a-f]*")) == before
    store.folder.cache_clear()


# --- check ------------------------------------------------------------------------------------------------------------


def test_the_row_check_prints_faults_and_findings_for_people(typed, here):
    plant(here / "rows.jsonl")
    code, out, err = typed("check", "rows.jsonl", "--rows-only")
    assert code == 3
    assert f"{NUM_ROWS} read: {NUM_ROWS - len(errors())} kept, {len(errors())} dropped: unusable" in out
    assert re.search(r"  placeholder: 1 row\n    \S+rows\.jsonl:\d+  messages\[1\]\.content  \{\{name\}\}", out)
    assert len(re.findall(r"^\S+rows\.jsonl:\d+  ", err, re.M)) == len(errors())
    assert "data.max_bad_share=0.01" in err  # 10 of 1000


def test_the_row_check_looks_at_every_set_and_at_the_held_out_rows(typed, file):
    Path("held.jsonl").write_text('{"text": "{{x}}"}\n', encoding="utf-8")
    words = ["data.mix={a: {path: rows.jsonl}}", "data.eval_path=held.jsonl", "data.max_bad_share=0.5"]
    code, out, _ = typed("check", *words, "--rows-only", "--json")
    sets = json.loads(out)["sets"]
    assert code == 0
    assert [(each["name"], each["rows_read"], each["format"]) for each in sets] == [
        ("a", 3, "messages"),
        ("eval", 1, "text"),
    ]
    assert sets[1]["findings"]["placeholder"]["rows"] == 1


def test_a_check_gives_the_ledger_of_a_run(file):
    from ftcli.worker.commands.data import inspect

    asked = request(f"data.path={file}", "data.max_bad_share=0.4")
    found = inspect(asked)
    assert found["train"]["rows_kept"] == 2
    assert found["template"]["answers_by"]
    assert set(inspect({**asked, "json": True})) == set(found)


def test_a_stream_is_not_stored_by_looking_at_it(typed, file):
    words = ["rows.jsonl", "data.streaming=true", "train.max_steps=1"]
    for action in ("check", "prepare"):
        code, _, err = typed(action, *words)
        assert (code, err[:16]) == (2, "data.streaming  ")
    assert typed("check", *words, "--rows-only", "data.max_bad_share=0.5")[0] == 0


def test_preview_of_no_rows_is_refused(typed, file):
    assert typed("preview", "rows.jsonl", "--rows", "0")[0] == 2


# --- preview ----------------------------------------------------------------------------------------------------------


def test_a_preview_tells_tokens_and_says_what_is_trained(file):
    first, bad, third, about = shown(file)
    assert (first["where"], first["kind"]) == (f"{file.resolve()}:1", "messages")
    [sequence] = first["sequences"]
    assert len(sequence["tokens"]) == first["tokens"]
    assert sum(trained for _, trained, _ in sequence["tokens"]) == first["trained"]
    assert {text for text, _, special in sequence["tokens"] if special} == {"<|im_start|>", "<|im_end|>"}
    assert bad["error"] == "messages has no assistant turn"
    assert third["where"].endswith(":3")
    assert about["format"] == "messages"


def test_a_preview_begins_at_its_line_and_shows_no_more_rows_than_asked(file):
    assert [each.get("where", "").rpartition(":")[2] for each in shown(file, line=3)] == ["3", ""]
    assert [each.get("where", "").rpartition(":")[2] for each in shown(file, rows=1, line=2)] == ["2", ""]
    file.write_text(json.dumps(ROWS[0]) + "\n" + "no json\n" * 100, encoding="utf-8")
    assert len(shown(file, rows=4)) == 4 + 1


def test_a_preview_begins_at_an_index_of_a_json_array_whose_rows_share_a_line(here):
    Path("rows.json").write_text(json.dumps([ROWS[0], ROWS[1], ROWS[2], ROWS[0]]), encoding="utf-8")
    *rows, _ = shown(Path("rows.json"), index=2)
    assert [row["where"].rpartition(":")[2] for row in rows] == ["1[2]", "1[3]"]
    *rows, _ = shown(Path("rows.json"), index=1, rows=1)
    assert [(row["where"].rpartition(":")[2], "error" in row) for row in rows] == [("1[1]", True)]
    with pytest.raises(ConfigError, match="no row starts there or later") as caught:
        shown(Path("rows.json"), line=2)
    assert "--index" in caught.value.problems[0].fix
    with pytest.raises(ConfigError, match="no JSON array of the data has a row of that index"):
        shown(Path("rows.json"), index=4)


def test_an_index_is_of_json_arrays_only(file):
    with pytest.raises(ConfigError, match="no JSON array of the data has a row of that index"):
        shown(file, index=0)


def test_a_preview_shows_rows_of_each_set(file):
    Path("plain.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    *rows, about = shown(file, "data.mix={a: {path: rows.jsonl}, b: {path: plain.txt}}", "data.path=null", rows=2)
    assert [Path(row["where"]).name for row in rows] == ["rows.jsonl:1", "rows.jsonl:2", "plain.txt:1", "plain.txt:2"]
    assert about["format"] == "messages, text"


def test_both_answers_of_a_preference_are_shown(here):
    Path("pairs.jsonl").write_text(json.dumps(PAIR), encoding="utf-8")
    [row, _] = shown(Path("pairs.jsonl"), "method=dpo")
    chosen, rejected = row["sequences"]
    assert [chosen["name"], rejected["name"]] == ["chosen", "rejected"]
    assert "".join(text for text, trained, _ in rejected["tokens"] if trained) == " No.<|im_end|>"


def test_at_a_terminal_trained_text_is_coloured(file, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows = shown(file, rows=1)
    preview.print_rows(rows)
    assert "\x1b[32m\x1b[4m<|im_end|>\x1b[0m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    preview.print_rows(rows)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "⟦" in out


def test_weights_of_turns_and_rows_are_shown(here, capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    asked, ok = {"role": "user", "content": "Tree?"}, {"role": "assistant", "content": "Leaf", "weight": 0.5}
    row = {"messages": [asked, ok, asked, {"role": "assistant", "content": "Root"}], "weight": 3}
    Path("weighed.jsonl").write_text(json.dumps(row), encoding="utf-8")
    rows = shown(Path("weighed.jsonl"))
    runs = groupby(rows[0]["sequences"][0]["tokens"], key=lambda token: token[1])
    told = [(mark, "".join(token[0] for token in run)) for mark, run in runs]
    assert [run for run in told if run[0]] == [(0.5, " Leaf<|im_end|>"), (True, " Root<|im_end|>")]
    preview.print_rows(rows)
    out = capsys.readouterr().out
    assert "; weight 3 in the loss\n" in out
    assert "⟦ Leaf<|im_end|>⟧×0.5" in out
    assert out.count("×") == 1
    page = preview.page(rows)
    assert page.count("<sub>×0.5</sub>") == 1
    assert "weight 3 in the loss" in page


def test_the_page_and_the_json_hold_the_rows_that_the_worker_shows(typed, file, monkeypatch):
    from ftcli.worker.commands.preview import preview as preview_rows

    # the worker's own answer, in this process: a start costs ten seconds
    monkeypatch.setattr(
        "ftcli.launch.worker_request.answers", lambda _, asked: preview_rows(json.loads(json.dumps(asked)))
    )
    code, out, err = typed("preview", "rows.jsonl", "--html", "page.html")
    assert (code, out, err) == (0, "", "written: page.html\n")
    assert Path("page.html").read_text(encoding="utf-8") == preview.page(shown(file))
    told = json.loads(typed("preview", "rows.jsonl", "--json")[1])
    assert [{key: value for key, value in row.items() if key != "provenance"} for row in told] == shown(file)


class Page(HTMLParser):
    """Collects tags, attributes and the text of a page; a tag that is closed and not open is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.trained = ""
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append("trained" if "trained" in str(dict(attrs).get("class")).split() else tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() in (tag, "trained")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "trained" and "pre" in self.open:
            self.trained += data


def test_a_page_is_whole_shows_rows_as_text_and_needs_nothing_else(file):
    page = preview.page(shown(file, rows=1))
    read = Page()
    read.feed(page)
    read.close()
    assert page.startswith("<!doctype html>\n<html lang=")
    assert read.open == []
    assert "Tree & <b>stone</b>?" in read.text
    assert read.trained == " Leaf\n日本<|im_end|>"
    assert read.tags <= {"html", "meta", "title", "style", "h1", "h3", "p", "ul", "li", "pre", "span"}
    assert {name for name, _ in read.attributes} <= {"lang", "charset", "class", "title"}
    assert not re.search(r"https?:|url\(|@import|<script|<link", page)


def test_a_hostile_name_or_row_stays_text_in_the_page():
    evil = '"><script>alert(1)</script>'
    sequence = {"name": evil, "tokens": [[evil, True, True], ["", True, False]]}
    row = {"where": evil, "kind": evil, "sequences": [sequence], "tokens": 1, "trained": 1, "max_length_tokens": 1,
           "row_weight": 1, "examples": 1, "findings": [evil]}  # fmt: skip
    about = {"format": evil, "template": {"from": evil, "answers_by": evil}, "findings": {evil: [{"where": evil}]}}
    page = preview.page([row, {"where": evil, "error": evil, "fix": evil}, about])
    assert "<script" not in page
    read = Page()
    read.feed(page)
    assert read.open == []
    assert "script" not in read.tags
    assert read.text.count(evil) >= 6


def test_several_files_are_one_set_in_their_order(typed):
    for name, answers in (("part-1", ["a", None]), ("part-2", ["b"]), ("part-3", ["c"])):
        rows = ({"prompt": f"{name}?", "completion": each} for each in answers)
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    names = ["part-1.jsonl", "part-2.jsonl", "part-3.jsonl"]
    for words in (names, ["data.path=part-*.jsonl"], [f"data.path=[{','.join(names)}]"], [",".join(names)], ["."]):
        code, printed, told = typed("check", "--rows-only", *words, "data.max_bad_share=0.5", "--json")
        assert code == 0, told
        [found] = json.loads(printed)["sets"]
        assert (found["rows_read"], found["rows_kept"]) == (4, 3), words
    # the fault is in the first of them, which used to be dropped from the command line
    code, _, told = typed("check", "--rows-only", *names)
    assert code == 3
    assert "part-1.jsonl:2" in told
