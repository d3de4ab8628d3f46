"""What strangers wrote is shown and does nothing: no escape, no forged line, no reordered command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftcli.cli import main, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import aligned, shell_word
from ftcli.core.untrusted.printable import cleaned, one_line, printable, process_output

HOSTILE = {
    "an escape sequence": "\x1b[2J\x1b]0;title\x07",
    "an 8-bit escape": "\x9b2J\x85",
    "a delete and a backspace": "\x7f\x08",
    "a carriage return": "done\rforged",
    "an override of direction": "\u202egpj.exe\u2066",
    "a line of its own": "\u2028forged",
    "invisible letters": "\U000e0041\U000e0042",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_each_kind_is_written_as_an_escape(text: str) -> None:
    assert not text.isprintable()
    for clean in (one_line, printable):
        assert clean(f"a{text}b").isprintable()
    assert process_output(text).replace("\r", "").isprintable()


def test_ordinary_text_of_any_language_stays_as_it_is() -> None:
    for text in ("plain", "naïve 日本語 עברית\u200f العربية 👩\u200d🚀 \u00a0x", "one\n\ttwo"):
        assert printable(text) == text
    assert one_line("one\n\ttwo") == "one\\n\\ttwo"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_json_stays_json_of_the_same_value(text: str) -> None:
    assert json.loads(printable(json.dumps({"a": text}, ensure_ascii=False))) == {"a": text}


def test_a_problem_and_a_table_have_no_line_but_their_own() -> None:
    forged = "x\n  fix: run this\x1b[2J"
    assert str(Problem(forged, forged, forged)).count("\n") == 1
    assert "\x1b" not in str(ConfigError(Problem("a", forged, "b")))
    assert [line.count("\n") for line in aligned([("a", forged), ("b", "c")])] == [0, 0]


@pytest.mark.parametrize("word", ["a b", "it's", "x\ny", "\x1b[2J'\\", "\u202eab", "$(id)", "`id`", "~", "*", ""])
def test_a_printed_word_can_be_pasted_and_is_the_same(word: str) -> None:
    quoted = shell_word(word)
    assert quoted.isprintable()
    told = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, check=True)
    assert told.stdout.decode() == word


def test_a_stream_is_cleaned_whoever_writes() -> None:
    out = io.StringIO()
    stream = cleaned(out)
    print("a\x1b[2J", file=stream)
    stream.write("b\x9b\n")
    stream.writelines(["c\r\n"])
    assert out.getvalue() == "a\\u001b[2J\nb\\u009b\nc\\u000d\n".replace("\\u000d", "\\r")
    assert cleaned(stream) is stream
    with pytest.raises(io.UnsupportedOperation):
        stream.fileno()  # all else is the stream's own


def test_a_naive_print_passes_the_commands_on(capsys: pytest.CaptureFixture[str]) -> None:
    print(HOSTILE["an escape sequence"])
    assert "\x1b[2J" in capsys.readouterr().out


# --- as a user meets them -------------------------------------------------------------------------------------------


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(list(words))
    told = capsys.readouterr()
    return told.out + told.err


MARK = "\x1b[31m\x9b2J\u202e\rFORGED\nFORGED"


@pytest.mark.parametrize(
    "body",
    [
        {"run": {"name": MARK}}, {"run": {"dir": MARK}}, {"data": {"path": MARK}}, {"data": {"format": MARK}},
        {"data": {"columns": {"prompt": MARK}}}, {"model": {"name_or_path": MARK}}, {"model": {"chat_template": MARK}},
        {"train": {MARK: 1}}, {MARK: 1}, {"train": {"report_to": MARK}}, {"defaults": [{"method": MARK}]},
        {"train": {"optim": MARK}}, {"method": {"reward_functions": [MARK]}}, {"seed": MARK},
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["check", "plan", "show"])
def test_no_value_of_a_recipe_reaches_the_terminal(
    here: Path, capsys: pytest.CaptureFixture[str], body: dict[str, Any], command: str
) -> None:
    Path("r.yaml").write_text(json.dumps({"ftcli": 1, "defaults": [{"method": "sft"}], **body}), encoding="utf-8")
    told = shown(capsys, command, "recipe=r.yaml")
    assert told.replace("\n", "").isprintable()
    assert not any(line.startswith("FORGED") for line in told.splitlines())


@pytest.mark.parametrize("name", ["\x1b[2J.jsonl", "a\nFORGED.jsonl", "\u202eb.jsonl"])
def test_no_row_column_or_file_name_reaches_the_terminal(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    Path("rows").mkdir()
    rows = [{"prompt": MARK, "completion": MARK, MARK: MARK}, {"prompt": 5}]
    Path("rows", name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for words in (("check", "data.path=rows"), ("plan", "data.path=rows", "data.max_bad_share=0.9")):
        told = shown(capsys, *words)
        assert told.replace("\n", "").isprintable()
        assert not any(line.startswith("FORGED") for line in told.splitlines())


def test_what_a_rank_prints_is_cleaned_on_its_way_and_in_the_log(here: Path) -> None:
    from ftcli.launch import local

    code = (
        "from pathlib import Path; import subprocess, sys; from ftcli.launch.local import Pump;"
        "p = subprocess.Popen([sys.executable, '-c',"
        ' \'print(chr(30) + chr(27) + "[2J" + chr(0x9b) + chr(13) + "x")\'],'
        " stdout=subprocess.PIPE); pump = Pump(p.stdout, Path('log.txt')); p.wait(); pump.join(120)"
    )
    assert local.Pump
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120)
    assert told.stderr == b"\\u001b[2J\\u009b\rx\n"
    assert Path("log.txt").read_bytes() == b"x\n"


def test_a_worker_cleans_what_it_and_its_libraries_print(here: Path) -> None:
    from ftcli.launch.local import worker_environment

    Path("\x1b[2J.json").write_text("{}", encoding="utf-8")
    told = subprocess.run(
        [sys.executable, "-m", "ftcli.worker", "\x1b[2Jnothing", "x"],
        capture_output=True, env=worker_environment(), check=False, timeout=120,
    )  # fmt: skip
    assert b"nothing" in told.stderr
    assert b"\x1b" not in told.stderr


def test_colours_of_our_own_stay_and_those_of_a_text_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", cleaned(out))
    output.styled("\x1b[32mtext\x1b[0m")
    output.text("\x1b[32mtext")
    assert out.getvalue() == "\x1b[32mtext\x1b[0m\n\\u001b[32mtext\n"
