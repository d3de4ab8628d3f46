"""Every page in docs/journeys, typed from top to bottom in one folder, as tests/journey_pages.py reads it.

What starts no worker is typed as printed. What does is typed with the built-in model on the CPU in the place of the
page's model and card, and a `train` with the page's own words for trying it (`text tiny`) as well, after it was checked
as printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.cli import COMMANDS
from tests.conftest import REPOSITORY
from tests.journey_pages import FOLDER, SHELLS, Step, commands, pages, shell_words, steps, unseen
from tests.whole.conftest import TIMEOUT_SECONDS, Train, environment

# In the place of the page's model and card:
LEFT_OUT = ("model=", "hardware=", "hardware.", "stages.assistant.model=")
TINY = ("model=tiny", "hardware=cpu", "hardware.num_threads=1")  # a second thread only waits where others compute
# What these read they read through the model's tokenizer, or train: typed with TINY, and `train` with the page's words.
WITH_A_MODEL = ("train", "data")
# The reader's own files: the names that the pages give them, a built-in set with such rows, and how many.
FILES = {
    "support.jsonl": ("sft", 200),
    "pairs.jsonl": ("preference", 200),
    "prompts.jsonl": ("prompts", 40),
    "provoking.jsonl": ("redteam", 12),
}

PAGES = pages()


def write_files(folder: Path) -> None:
    """What the reader has before the first step; `support.csv` holds the rows of support.jsonl, a row an exchange."""
    for name, (task, number) in FILES.items():
        lines = tiny.set_path(task, "train").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:number]), encoding="utf-8")
    turns = [json.loads(line)["messages"] for line in (folder / "support.jsonl").read_text().splitlines()]
    cells = [",".join('"' + turn["content"].replace('"', '""') + '"' for turn in row[-2:]) for row in turns]
    (folder / "support.csv").write_text("\n".join(["customer,agent", *cells]) + "\n", encoding="utf-8")


def starts_no_worker(words: list[str]) -> bool:
    """Whether the command is typed as printed."""
    return words[0] not in WITH_A_MODEL or "--dry-run" in words or "--rows-only" in words


def with_tiny(words: list[str], added: list[str]) -> list[str]:
    """The command with the built-in model, and a `train` with the words that make it short."""
    if "--resume" in words or "dropped" in words:  # of a run, which knows its model
        return words
    kept = [word for word in words if not word.startswith(LEFT_OUT)]
    return [*kept, *TINY, *(added if words[0] == "train" else ())]


@dataclass
class Reader:
    """Somebody who follows a page in a folder of their own."""

    folder: Path
    ftcli: Train
    added: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    block: str = ""
    printed: str = ""
    """By the commands of the newest block."""

    def take(self, step: Step) -> None:
        """Do what a step says, or look for what it shows."""
        if step.kind == "tiny":
            self.added = step.text.split()
        elif step.kind == "file":
            (self.folder / step.about).write_text(step.text, encoding="utf-8")
        elif step.kind == "seen":
            lost = unseen(step.text, self.printed)
            assert not lost, f"{step.place}  not printed: {lost}\n{self.printed}"
        elif step.kind in ("type", "checked"):
            if step.place != self.block:
                self.block, self.printed = step.place, ""
            words = shell_words(step.text)
            if words is None:
                self.by_a_shell(step)
            else:
                self.by_ftcli(words, step)

    def by_ftcli(self, words: list[str], step: Step) -> None:
        """Type a command of ftcli."""
        assert words[0] in COMMANDS, step
        words = [found for word in words for found in self.matched(word)]
        if starts_no_worker(words):
            self.type(words, step)
            return
        if words[0] == "train" and not {"--resume", "--from"} & set(words):
            self.type(["check", *words[1:]], step)
        if step.kind == "type":
            self.type(with_tiny(words, self.added), step)

    def matched(self, word: str) -> list[str]:
        """The files that a word with a star stands for, as a shell gives them; else the word."""
        return sorted(map(str, self.folder.glob(word))) if "*" in word and not os.path.isabs(word) else [word]

    def type(self, words: list[str], step: Step) -> None:
        """Type these words; the command must end well."""
        done = self.ftcli(*words, cwd=self.folder, expect=None, **self.variables)
        self.printed += done.stdout + done.stderr
        assert done.returncode == 0, f"{step.place}  ftcli {' '.join(words)}\n{done.stdout}{done.stderr}"

    def by_a_shell(self, step: Step) -> None:
        """Type what is no command of ftcli alone: a variable, which the next commands have, or a line for a shell."""
        name, is_set, value = step.text.removeprefix("export ").partition("=")
        if step.text.startswith("export ") and is_set:
            if environment().get(name) != value:  # of what is set anyway no command needs a process of its own
                self.variables[name] = value
            return
        program = self.folder / ".bin" / "ftcli"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nPYTHONPATH="{REPOSITORY}" exec "{sys.executable}" -m ftcli "$@"\n')
        program.chmod(0o755)
        path = os.pathsep.join((str(program.parent), os.environ["PATH"]))
        done = subprocess.run(
            ["sh", "-c", step.text], cwd=self.folder, env=environment(PATH=path, **self.variables),
            capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
        self.printed += done.stdout + done.stderr
        assert done.returncode == 0, f"{step.place}  {step.text}\n{self.printed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_typed_from_top_to_bottom(page: Path, tmp_path: Path, ftcli_run: Train) -> None:
    write_files(tmp_path)
    reader = Reader(tmp_path, ftcli_run)
    for step in steps(page.read_text(encoding="utf-8"), page.name):
        reader.take(step)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_and_says_how_it_is_tried(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    done = steps(text, page.name)
    assert len(text.splitlines()) <= 150
    assert any(step.kind == "tiny" for step in done), "no block `text tiny`"
    typed = [step for step in done if step.kind in ("type", "checked")]
    assert any(step.text.startswith("ftcli ") for step in typed if step.kind == "type")
    unrun = [step.text.split()[1] for step in done if step.kind == "unrun" and step.text.startswith("ftcli ")]
    assert set(unrun) <= set(COMMANDS)


def test_the_index_lists_every_page_once() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [index.count(f"]({page.name})") for page in PAGES] == [1] * len(PAGES)
    assert PAGES


def test_a_page_is_read_as_its_marks_say() -> None:
    text = (
        "# A page\n```sh\nftcli plan \\\n  seed=1  # why\n```\n```text\n  steps   246 in 34.8 s\n```\n"
        "```sh checked: it needs two cards\nftcli train seed=2\n```\n```console\n$ ls '# a'\nprinted\n```\n"
        "```text tiny\ntrain.max_steps=2\nseed=3\n```\n```yaml mine.yaml\nftcli: 1\n```\n```json\n{}\n```\n"
    )
    assert [(step.place, step.kind, step.about) for step in steps(text, "x.md")] == [
        ("x.md:2", "type", ""), ("x.md:6", "seen", ""), ("x.md:9", "checked", "it needs two cards"),
        ("x.md:12", "type", ""), ("x.md:16", "tiny", ""), ("x.md:20", "file", "mine.yaml"),
    ]  # fmt: skip
    assert commands("ftcli plan \\\n  seed=1  # why\n# alone\n\n", prompt=False) == ["ftcli plan    seed=1"]
    for mark in ("sh skipped", "sh unrun:", "sh checked: slow", "text shown"):
        with pytest.raises(ValueError, match=r"x\.md:1"):
            steps(f"```{mark}\nftcli train\n```\n", "x.md")


def test_what_is_shown_is_compared_but_for_its_figures() -> None:
    printed = "sft of builtin:tiny\n  held-out loss   5.06 → 0.95\n  model  runs/a/1/model\n"
    assert unseen("  held-out loss  1.2 → 0.3\n…\n  model   runs/b/2\n", printed) == []
    assert unseen("  held-out score  1.2\n", printed) == ["  held-out score  1.2"]


def test_a_command_keeps_its_words_but_for_model_and_card() -> None:
    words = ["train", "a.jsonl", "model=qwen", "hardware.gpu=24GiB", "peft=lora"]
    assert with_tiny(words, ["seed=1"]) == ["train", "a.jsonl", "peft=lora", *TINY, "seed=1"]
    assert with_tiny(["data", "check", "a.jsonl", "model=qwen"], ["seed=1"]) == ["data", "check", "a.jsonl", *TINY]
    assert with_tiny(["train", "--resume", "a"], ["seed=1"]) == ["train", "--resume", "a"]
    assert shell_words("ftcli generate a 'Why?'") == ["generate", "a", "Why?"]
    assert shell_words("ftcli show a > b") is None
    assert shell_words("head -n 1 a.jsonl") is None


def test_no_block_of_commands_is_passed_over() -> None:
    """A fence that is indented, or of four back-ticks, would not be read."""
    for page in PAGES:
        fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.lstrip(" >").startswith("```")]
        assert [fence for fence in fences if fence != fence.lstrip(" >") or fence.startswith("````")] == [], page.name
        assert any(fence.partition(" ")[0].removeprefix("```") in SHELLS for fence in fences)
