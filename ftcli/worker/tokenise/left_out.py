"""What a chat template leaves out of a row: calls, reasoning, declared tools, a system text, the end of a question.

A template writes what its author thought of, and nothing else of a turn. A trained answer of which something is missing
teaches the model to be silent about it, so its row is refused; of other turns and of tools it is a finding. Everything
that a turn says must stand in the rendered text: as it is, escaped as in JSON, or with other white space and
punctuation.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ftcli.core.errors import DataError, RowProblem
from ftcli.data.quality_checks import QualityIssue
from ftcli.data.row_ledger import LEFT_OUT
from ftcli.models.templates.answer_forms import REASONING
from ftcli.worker.tokenise.special_tokens import Turns

_THOUGHT = "</think>"
_SHOWN_CHARACTERS = 40
_NO_WORD = re.compile(r"\W+")
_FIXES = {
    "text": "use a model whose template writes it, or remove the row",
    "call": "use a model whose template writes tool calls, or drop such rows with data.max_bad_share",
    "reasoning": "use a model whose template writes reasoning, remove the reasoning from the rows, or write it as text",
}


class Said(NamedTuple):
    """One thing that a turn says."""

    sort: str
    """text, call or reasoning."""
    about: str
    value: Any


def said_by(turn: Mapping[str, Any]) -> Iterator[Said]:
    """All that a turn says."""
    content = turn.get("content")
    if isinstance(content, str) and content.strip():
        yield Said("text", f"the {turn['role']}'s text", content)
    for key in REASONING:
        if isinstance(turn.get(key), str) and turn[key].strip():
            yield Said("reasoning", "the reasoning", turn[key])
    for call in turn.get("tool_calls") or ():
        function = call.get("function") or {}
        yield Said("call", "the called function", function.get("name", ""))
        yield from _arguments(function.get("arguments"), f"an argument of {function.get('name')}")


def _arguments(value: Any, about: str) -> Iterator[Said]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield Said("call", about, key)
            yield from _arguments(each, about)
    elif isinstance(value, list):
        for each in value:
            yield from _arguments(each, about)
    else:
        yield Said("call", about, value)


def refuse_left_out(where: str, turn: Mapping[str, Any], number: int, answer: str) -> None:
    """Check that an answer that is trained says all that its turn says.

    Raises:
        DataError: the template leaves something out.
    """
    written = _Written(answer)
    for each in said_by(turn):
        if written.lacks(each.value):
            sort, shown = each.sort, _shown(each.value)
            if sort == "text" and _THOUGHT in each.value and not written.lacks(_after_thought(each.value)):
                each, sort, shown = Said("reasoning", "the reasoning", ""), "reasoning", _shown(each.value)
            what = (
                f"the model's chat template leaves out {each.about} of turn {number}, {shown}: it would not be trained"
            )
            raise DataError(RowProblem(where, what, _FIXES[sort]))


def left_out(turns: Turns, tools: Any, text: str, but: Sequence[int] = ()) -> list[QualityIssue]:
    """Quality issues for what the rendered text lacks of the turns and tools.

    Args:
        but: indices of turns that were checked by `refuse_left_out`.
    """
    written, found = _Written(text), []
    standing: list[str] = []
    for index, turn in enumerate(turns):
        missing = [] if index in but else [each for each in said_by(turn) if written.lacks(each.value)]
        if missing:
            found.append(_issue(f"turn {index + 1}", missing[0], written))
        elif isinstance(turn.get("content"), str):
            standing.append(turn["content"].strip())
    found += _repeated(turns, standing, text, but)
    for tool in tools or ():
        lacking = next((each for each in _declared(tool) if written.lacks(each.value)), None)
        if lacking is not None:
            found.append(QualityIssue(LEFT_OUT, "tools", f"the chat template leaves out {_about(lacking)}"))
            break  # a template that writes no tools would repeat it for each of them
    return found


def _repeated(turns: Turns, standing: Sequence[str], text: str, but: Sequence[int]) -> Iterator[QualityIssue]:
    """Texts that occur in several turns, and less often in the rendered text: one of those turns is left out."""
    whole = "\0".join(standing)
    for content in dict.fromkeys(standing):
        if content and 0 < text.count(content) < whole.count(content):
            places = [i for i, t in enumerate(turns) if i not in but and (t.get("content") or "").strip() == content]
            if places:
                said = Said("text", f"the {turns[places[0]]['role']}'s text", content)
                yield QualityIssue(LEFT_OUT, f"turn {places[0] + 1}", f"the chat template leaves out {_about(said)}")


def _declared(tool: Mapping[str, Any]) -> Iterator[Said]:
    """Name, description and parameter names of a declared tool."""
    function = tool.get("function") or {}
    name = function.get("name", "")
    yield Said("call", "the declared tool", name)
    if isinstance(function.get("description"), str):
        yield Said("call", f"the description of {name}", function["description"])
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    for key in properties if isinstance(properties, Mapping) else ():
        yield Said("call", f"a parameter of {name}", key)


def _issue(field: str, missing: Said, written: _Written) -> QualityIssue:
    if missing.sort == "text" and _THOUGHT in missing.value and not written.lacks(_after_thought(missing.value)):
        missing = Said("reasoning", "the reasoning", missing.value)
    return QualityIssue(LEFT_OUT, field, f"the chat template leaves out {_about(missing)}")


def _after_thought(content: str) -> str:
    return content.rpartition(_THOUGHT)[2]


def _about(said: Said) -> str:
    return f"{said.about}, {_shown(said.value)}"


def _shown(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"


class _Written:
    """A rendered text, in which values are looked for."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._words: str | None = None

    def lacks(self, value: Any) -> bool:
        """Whether a value does not stand in the text, in any form in which templates write values."""
        if isinstance(value, bool) or value is None:
            forms = {json.dumps(value), str(value), str(value).lower()}
            return not any(form in self._text for form in forms)
        if not isinstance(value, str):
            return json.dumps(value, default=str) not in self._text and str(value) not in self._text
        bare = value.strip()
        return bool(bare) and bare not in self._text and not self._has_other_form(bare)

    def _has_other_form(self, bare: str) -> bool:
        escaped = [json.dumps(bare, ensure_ascii=plain)[1:-1] for plain in (False, True)]
        twice = [json.dumps(form, ensure_ascii=False)[1:-1] for form in escaped]  # JSON inside JSON
        if any(form in self._text for form in (*escaped, *twice, repr(bare)[1:-1])):
            return True
        if "&" in self._text and bare in html.unescape(self._text):
            return True
        words = _NO_WORD.sub(" ", bare).strip()
        if self._words is None:
            self._words = f" {_NO_WORD.sub(' ', self._text)} "
        return bool(words) and f" {words} " in self._words
