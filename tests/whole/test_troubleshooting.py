"""docs/troubleshooting.md quotes what ftcli says: its `console` blocks are typed here, in order, and must print it; its
`text` blocks quote what needs a GPU, a cluster or a fault, and must stand in the source, word for word."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.whole.conftest import Train

PAGE = REPOSITORY / "docs" / "troubleshooting.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
QUOTED = 14
"""Characters of a message that must be its own; what it is filled with is not compared."""

PROMPT = "{% if add_generation_prompt %}[assistant]END{% endif %}"
TEMPLATES = {
    "spaced.jinja": "{% for m in messages %}[{{ m.role }}] {{ m.content + eos_token }}{% endfor %}"
    + PROMPT.replace("END", " "),
    "endless.jinja": "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}" + PROMPT.replace("END", ""),
}


def blocks(kind: str) -> list[str]:
    """The fenced blocks of one kind on the page."""
    return [text for each, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if each == kind]


def row(number: int) -> str:
    turns = (("user", f"Where is order {number}?"), ("assistant", f"Order {number} ships on day {number % 7}."))
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n"


def write_files(folder: Path) -> None:
    """The reader's files: 40 good rows, 41 of which two are unusable and one is there twice, and two chat templates."""
    good = [row(number) for number in range(40)]
    (folder / "rows.jsonl").write_text("".join(good), encoding="utf-8")
    bad = ['{"messages": [{"role": "user", "content": "x"}]}\n', '{"messages": "no"}\n']
    (folder / "bad.jsonl").write_text("".join([*good[:10], *bad, *good[12:], good[0]]), encoding="utf-8")
    for name, text in TEMPLATES.items():
        (folder / name).write_text(text, encoding="utf-8")


def change_rows(folder: Path) -> None:
    """What somebody did to the rows of `support` after it was trained."""
    with open(folder / "rows.jsonl", "a", encoding="utf-8") as file:
        file.write(row(40))


def damage(folder: Path) -> None:
    """A copy of `support` that did not finish, both of whose checkpoints are damaged; the rows are as they were."""
    write_files(folder)
    shutil.copytree(folder / "runs/support", folder / "runs/damaged")
    [run] = (folder / "runs/damaged").iterdir()
    (run / "result.json").unlink()
    for checkpoint in (run / "checkpoints").iterdir():
        with open(checkpoint / "optimizer.pt", "ab") as file:
            file.write(b"x")


HAPPENS_BEFORE = {
    "ftcli train --resume support train.max_steps=6": change_rows,
    "ftcli train --resume damaged": damage,
}


def matcher(line: str) -> re.Pattern[str]:
    """A quoted line as a pattern: `…` is whatever, and so is the time in a run's directory."""
    text = re.escape(re.sub(r"\b\d{8}-\d{6}\b", "…", line)).replace("…", r"\S.*?")
    return re.compile(text)


def lost(quoted: list[str], printed: list[str]) -> list[str]:
    """The quoted lines that were not printed in this order."""
    rest = iter(printed)
    return [line for line in quoted if not any(matcher(line).fullmatch(said) for said in rest)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ftcli_run: Train) -> Path:
    """The folder of a reader who has trained `support`."""
    folder = tmp_path_factory.mktemp("reader")
    write_files(folder)
    short = ("train.max_steps=4", "train.save_steps=2", "train.per_device_train_batch_size=2")
    ftcli_run("train", "rows.jsonl", *short, "run.name=support", cwd=folder)
    return folder


def test_every_command_prints_what_the_page_quotes(folder: Path, ftcli_run: Train) -> None:
    for block in blocks("console"):
        for command, *quoted in (part.rstrip("\n").split("\n") for part in re.split(r"^\$ ", block, flags=re.M)[1:]):
            HAPPENS_BEFORE.get(command, lambda _folder: None)(folder)
            words = shlex.split(command)
            variables = dict(word.split("=") for word in words[: words.index("ftcli")])
            done = ftcli_run(*words[words.index("ftcli") + 1 :], cwd=folder, expect=None, **variables)
            printed = (done.stdout + done.stderr).replace(str(folder), "/data").splitlines()
            assert quoted, f"{command}: quotes nothing"
            assert done.returncode != 1, f"{command}\n{done.stderr}"
            assert (done.returncode != 0) == any(line.startswith("  fix: ") for line in quoted), command
            assert lost(quoted, printed) == [], f"{command}\n" + "\n".join(printed)


@cache
def messages() -> list[re.Pattern[str]]:
    """Every text in the source that could be a message, what is put into it left open."""
    found = []
    for file in sorted((REPOSITORY / "ftcli").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if sum(len(text) for text in texts if isinstance(text, str)) >= QUOTED and all(
                text is None or isinstance(text, str) for text in texts
            ):
                found.append(re.compile("".join(".+" if text is None else re.escape(text) for text in texts)))
    return found


def stands_in_the_source(line: str) -> bool:
    """Whether a quoted line, or what follows its place, is a message of the source; `; …` cuts off what follows."""
    said = re.sub(r"^(?:  fix: |warning: |hardware=slurm  |\S+  |the GPU  )+(?:(?:since )?step \d+:? )?", "", line)
    is_message = [any(pattern.fullmatch(text) for pattern in messages()) for text in (said, said.removesuffix("; …"))]
    parts = said.removesuffix("; …").split("; ")
    return any(is_message) or all(any(pattern.fullmatch(part) for pattern in messages()) for part in parts)


def quoted_lines() -> Iterator[str]:
    """The lines of the page's `text` blocks."""
    for block in blocks("text"):
        yield from block.splitlines()


@pytest.mark.parametrize("line", quoted_lines())
def test_what_no_command_here_can_print_stands_in_the_source(line: str) -> None:
    assert stands_in_the_source(line)


def test_a_message_that_was_reworded_would_be_found() -> None:
    assert not stands_in_the_source("rank 1 has made no progres for 1800 seconds in step 12, at rewards.py:8")
    assert not stands_in_the_source("  fix: accept the terms on the page of the model and log in with `hf auth login`")
    assert lost(["a 1", "b"], ["b", "a 1"]) == ["b"]
    assert lost(["x … y", "/runs/20260101-120000"], ["x 12 z y", "/runs/20270202-130000"]) == []


@pytest.mark.parametrize("command", re.findall(r"`(ftcli [a-z][^`]*)`", PAGE.read_text(encoding="utf-8")))
def test_a_command_in_a_sentence_and_its_flags_exist(command: str, typed: Callable[..., tuple[int, str, str]]) -> None:
    _, name, *words = command.split()
    sub = [words[0]] if name == "data" else []
    code, told, _ = typed(name, "--help")
    assert code == 0
    assert [word for word in (*sub, *re.findall(r"--[a-z-]+", command)) if word not in told] == []


def test_the_page_is_short_and_lists_its_symptoms() -> None:
    text = PAGE.read_text(encoding="utf-8")
    symptoms = re.findall(r"^## (.+)$", text, re.M)
    assert len(text.splitlines()) <= 250
    assert [symptom for symptom in symptoms if f"[{symptom}](#" not in " ".join(text.split())] == []
    assert {kind for kind, _ in BLOCK.findall(text)} == {"console", "text"}
