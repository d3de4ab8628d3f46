"""`ftcli chat` as it is typed: at a terminal, with its commands, and with lines from a pipe."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import MakeOnce
from tests.served_models import make_base
from tests.terminal import Terminal
from tests.whole.conftest import TIMEOUT_SECONDS, Train, environment

SHORT = ("--max-new-tokens", "3")
BRIEF = (
    "train", "train.max_steps=1", "train.eval_strategy=no", "run.score_rows=0", "hardware=cpu", "data.max_rows=8",
    "peft=lora",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(once: MakeOnce, ftcli_run: Train) -> Path:
    """Two short runs."""

    def make(folder: Path) -> None:
        for name in ("one", "two"):
            ftcli_run(*BRIEF, f"run.dir={name}", f"seed={len(name)}", cwd=folder)

    return once("chatted", make)


def piped(runs: Path, words: tuple[str, ...], lines: list[str], code: int = 0) -> str:
    """What a chat says to lines from a pipe."""
    done = subprocess.run(
        [sys.executable, "-m", "ftcli", "chat", *words, *SHORT], cwd=runs, env=environment(), text=True,
        input="".join(f"{line}\n" for line in lines), capture_output=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_lines_of_a_pipe_are_messages_and_commands(runs: Path, tmp_path: Path):
    saved = tmp_path / "talk.jsonl"
    said = piped(
        runs, ("one", "--system", "Be brief."),
        [
            "/save before.jsonl", "Hello \\", "there", '"""', "/help", "two lines", '"""', "//x", f"/save {saved}",
            f"/save {saved}", "/base", "Again", "/dance", "/adapter two", "/reset", "/save none.jsonl", "/exit",
            "never",
        ],
    )  # fmt: skip
    for note in (
        "[nothing was said yet]", f"[saved: {saved}]", f"[{saved} is there already, and is not written over]",
        "[the model before training answers too, from its own beginning]", "[there is no command /dance: /help lists",
        "[there is no adapter to switch to: ftcli chat MODEL --adapter RUN]",
    ):  # fmt: skip
        assert note in said
    assert said.count("before: ") == said.count("after: ") == 1
    assert said.count("[nothing was said yet]") == 2  # /reset forgot it
    [row] = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
    turns = row["messages"]
    assert turns[0] == {"role": "system", "content": "Be brief."}
    assert [turn["content"] for turn in turns if turn["role"] == "user"] == ["Hello \nthere", "/help\ntwo lines", "/x"]
    assert all(turn["content"] in said for turn in turns if turn["role"] == "assistant")


def test_bytes_that_are_no_text_are_not_sent_and_the_last_line_needs_no_end(tmp_path: Path):
    lines = b'\xff\xfe bad\n/system caf\xe9\n/adapter \xff\n/save talk.jsonl\n"""\n' + "naïve \u2028 🙂\n".encode()
    done = subprocess.run(
        [sys.executable, "-m", "ftcli", "chat", "builtin:tiny", *SHORT], cwd=tmp_path, env=environment(),
        input=lines + b"end \\", capture_output=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    said = done.stdout.decode("utf-8")
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert said.splitlines()[:4] == ["[that is not UTF-8, and was not sent]"] * 3 + ["[nothing was said yet]"]
    assert len(said.splitlines()) > 4  # the answer to the block, which the end of the input ended


def test_several_models_answer_side_by_side_each_with_its_own_conversation(runs: Path, tmp_path: Path):
    saved = tmp_path / "both.jsonl"
    said = piped(runs, ("one", "two"), ["Hello.", "/base", f"/save {saved}"])
    assert said.count("one: ") == said.count("two: ") == 1
    assert "[of several models, each has a base of its own: chat with one of them]" in said
    rows = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
    assert [row["model"] for row in rows] == ["one", "two"]
    assert "--base is for one model alone" in piped(runs, ("one", "two", "--base"), [], code=2)
    assert "one model is named twice" in piped(runs, ("one", "one"), [], code=2)
    assert "none-such" in piped(runs, ("one", "./none-such"), [], code=2)


def test_adapters_are_switched_by_name(runs: Path):
    said = piped(
        runs, ("builtin:tiny", "--adapter", "one", "--adapter", "two"), ["/adapter two", "/adapter x", "/base"]
    )
    assert "[adapter one; /adapter NAME switches: one, two, none]" in said
    assert "[adapter two; /adapter NAME switches: one, two, none]" in said
    assert "[there is no adapter x: one, two, none]" in said
    assert "[the base is /adapter none]" in said


def test_at_a_terminal_there_is_a_prompt_with_line_editing_and_the_lines_before(tmp_path: Path):
    outer, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ftcli", "chat", "builtin:tiny", *SHORT], cwd=tmp_path,
        env=environment(TERM="dumb"), stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    whole = said = ""

    def until(text: str) -> None:
        """Read on until a text that was not read before."""
        nonlocal whole, said
        end = time.monotonic() + TIMEOUT_SECONDS
        while text not in said:
            assert time.monotonic() < end, whole
            assert process.poll() is None, whole
            if select.select([outer], [], [], 0.1)[0]:
                piece = os.read(outer, 65536).decode("utf-8", "replace")
                whole, said = whole + piece, said + piece
        said = said.partition(text)[2]

    with process:
        until("> ")
        for typed, shown in (
            (b"/systen\x7fm Be brief.\n", "\n> "),  # a typing error, taken back
            (b"Hello \\\n", "\n. "),
            (b"there\n", "\n> "),
            (b"\x10\n", "\n> "),  # Ctrl-P: the line before
            (b"/save talk.jsonl\n", "[saved: talk.jsonl]\r\n> "),
        ):
            os.write(outer, typed)
            until(shown)
        os.write(outer, b"\x04")  # Ctrl-D
        assert process.wait(TIMEOUT_SECONDS) == 0
    os.close(outer)
    [row] = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [turn["content"] for turn in row["messages"] if turn["role"] != "assistant"]
    assert asked == ["Be brief.", "Hello \nthere", "there"]


def talkative(folder: Path) -> Path:
    """A model that says one word again and again, and never ends."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_base(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    [word] = tokenizer.encode(" number", add_special_tokens=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(1.0)
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                weight.zero_()
        model.get_output_embeddings().weight[word] = 1.0
    model.save_pretrained(folder)
    return folder


def test_ctrl_c_stops_the_answer_and_not_the_chat(tmp_path: Path):
    talkative(tmp_path / "talkative")
    terminal = Terminal(100, echo=True)
    words = [sys.executable, "-m", "ftcli", "chat", "./talkative", "--system", "Go on.", "--max-new-tokens", "1000000"]
    process = terminal.run(words, tmp_path, environment(TERM="dumb"))

    def prompted(stopped: int) -> None:
        """Wait for an empty prompt, after so many answers were stopped."""
        terminal.until(lambda lines: lines.count("[stopped]") == stopped and lines[-1:] == [">"])

    try:
        prompted(0)
        for turn, message in enumerate(("Hello.", "And then?"), start=1):
            terminal.type(f"{message}\n")
            terminal.until(lambda lines, turn=turn: lines[-1].count("number number") > turn)
            terminal.type("\x03")
            prompted(turn)
        terminal.type("never sent")
        terminal.until(lambda lines: lines[-1] == "> never sent")
        terminal.type("\x03")
        prompted(2)
        terminal.type("never either \\\n")
        terminal.until(lambda lines: lines[-1] == ".")
        terminal.type("\x03")
        prompted(2)
        terminal.type("/save talk.jsonl\n")
        terminal.until(lambda lines: "[saved: talk.jsonl]" in lines and lines[-1] == ">")
        assert process.poll() is None
        terminal.type("\x03")
        assert process.wait(TIMEOUT_SECONDS) == 75
    finally:
        process.kill()
        process.wait()
    terminal.until(lambda lines: lines[-1].startswith("stopped by SIGINT while chatting"))
    [row] = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [turn["content"] for turn in row["messages"] if turn["role"] == "user"] == ["Hello.", "And then?"]
    for turn in row["messages"][2::2]:
        assert set(turn["content"].split()) == {"number"}
