"""The pages in docs/journeys as their readers type them: which commands, in which order, with which files.

A page is Markdown. Of its fenced blocks these are read, by what stands after the three back-ticks:

    sh, bash, console          commands, typed in order in one folder; in `console` those behind `$ `
    sh checked: REASON         the same, but what would start a worker is only checked, as printed
    sh unrun: REASON           not typed at all: it needs what no test has, which the reason names
    text                       what the commands of the block before it print: every line is looked for, figures aside
    text tiny                  the words that try the page on a CPU: added to each `train` from there on
    LANGUAGE NAME.SUFFIX       a file that the reader writes under that name

Other blocks are only looked at, by people.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "docs" / "journeys"
SHELLS = ("sh", "bash", "console")
_BLOCK = re.compile(r"^```(\S+)(?: +([^\n]*\S))?\n(.*?)^```$", re.M | re.S)
_MARK = re.compile(r"(checked|unrun):\s*(.*)")


@dataclass(frozen=True)
class Step:
    """What a reader does next, or sees."""

    place: str
    kind: str
    """`type`, `checked`, `unrun`, `seen`, `tiny` or `file`."""
    text: str
    """The command, the lines that are seen, the words, or the content of the file."""
    about: str = ""
    """Why it is not typed, or the name of the file."""


def pages() -> list[Path]:
    """Every page of a journey; the index has no steps."""
    return sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")


def commands(block: str, prompt: bool) -> list[str]:
    """The commands of a block, without comments; a line that ends in a backslash goes on in the next."""
    lines = block.replace("\\\n", " ").splitlines()
    if prompt:
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    lines = [re.sub(r"(?:^|\s+)# .*", "", line).strip() for line in lines]
    return [line for line in lines if line]


def steps(text: str, name: str) -> list[Step]:
    """The steps of a page, in order.

    Raises:
        ValueError: a block has a mark that is not known, or one without a reason.
    """
    found: list[Step] = []
    for block in _BLOCK.finditer(text):
        language, about, content = block[1], block[2] or "", block[3]
        place = f"{name}:{text.count(chr(10), 0, block.start()) + 1}"
        if language in SHELLS:
            mark = _MARK.fullmatch(about)
            if about and (mark is None or len(mark[2].split()) < 3):
                raise ValueError(f"{place}  `{about}` is neither `checked: REASON` nor `unrun: REASON`")
            kind, reason = (mark[1], mark[2]) if mark else ("type", "")
            found += [Step(place, kind, line, reason) for line in commands(content, language == "console")]
        elif language == "text" and about in ("", "tiny"):
            found.append(Step(place, about or "seen", content))
        elif re.fullmatch(r"[\w.-]+\.\w+", about):
            found.append(Step(place, "file", content, about))
        elif about:
            raise ValueError(f"{place}  `{about}` is no mark of a block")
    return found


def unseen(excerpt: str, printed: str) -> list[str]:
    """The lines of an excerpt that were not printed; figures, times and how wide a column is may differ."""
    said = [_bare(line) for line in printed.splitlines()]
    wanted = [line for line in excerpt.splitlines() if line.strip(" …")]
    return [line for line in wanted if not any(_bare(line) in each for each in said)]


def _bare(line: str) -> str:
    """The line up to its first figure: what it is about."""
    words = line.replace("…", " ").split()
    first = next((index for index, word in enumerate(words) if index and re.search(r"\d|/", word)), len(words))
    return " ".join(words[:first])


def shell_words(command: str) -> list[str] | None:
    """The words of a plain `ftcli` command; None where a shell has to read it."""
    if not command.startswith("ftcli ") or re.search(r"[|<>;&$`]", re.sub(r"'[^']*'|\"[^\"]*\"", "", command)):
        return None
    return shlex.split(command)[1:]
