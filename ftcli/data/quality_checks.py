"""Quality checks of usable rows: issues are reported beside the run and never stop it.

Only the columns that the format reads are checked. An issue names its field as written in the row, not in the example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from ftcli.data.formats.columns import CONTEXT, HISTORY, LABEL, SYSTEM, TOOLS, Format, column, is_answer
from ftcli.data.formats.conversations import CONTENT_KEYS, WEIGHT_KEYS, WEIGHTS, Turn, key_of
from ftcli.data.formats.format_table import COMPLETIONS, OPENAI_SIDES
from ftcli.data.formats.ranked import RANKINGS, RankedNeed, best_and_worst
from ftcli.data.formats.registry import FORMATS
from ftcli.data.formats.row_fields import CHOSEN, REJECTED, Fields
from ftcli.data.text_checks import garbled, placeholders

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "placeholder": "a placeholder in double braces was never filled in",
        "encoding": "characters that a wrong encoding produces, or control characters",
        "role order": "the turns are in an unusual order",
        "starts with the answer": "the assistant speaks first, so the first answer has no question",
        "unanswered": "the last turn is not the assistant's, so nothing is learned from it",
        "same answers": "chosen and rejected are the same answer",
        "empty": "a text that may be blank is blank, probably by mistake",
        "answer repeats the prompt": "the answer is the prompt, word for word",
        "missing value": "a whole text is what a program writes for a missing value: nan, None, null, …",
        "weight": "a turn is marked as trained although only the assistant's turns are",
    }
)
"""Every quality check, with one line that explains it."""

_CALL = "call"  # the role, in this module, of an assistant turn that calls a tool
_SPEAKS = ("assistant", _CALL)
_SETS = ("system", "developer")
_EXCHANGE = ("user", "assistant")
_CONTEXT = frozenset(CONTEXT)
_ANSWERS = (*CHOSEN, *COMPLETIONS, OPENAI_SIDES[0])
_REJECTED = (*REJECTED, OPENAI_SIDES[1])
_FURTHER_TEXTS = frozenset({"reasoning_content", "thinking", "tool_calls", "function_call"})
_MISSING = frozenset({"nan", "NaN", "None", "null", "NULL", "<NA>", "#N/A", "NaT"})
_LONGEST_MISSING = max(map(len, _MISSING))
_SAYS = ("user", "assistant", "system", "developer")
_WORD_FOR_WORD = "repeats the prompt word for word"


class QualityIssue(NamedTuple):
    """One failed check; `field` is the path in the row as written (`conversations[1].value`)."""

    kind: str
    field: str
    what: str


def quality_issues(
    fmt: Format, row: Mapping[str, Any], example: Mapping[str, Any], *, plain: bool = False
) -> list[QualityIssue]:
    """Every quality issue of a row that was converted to an example.

    Args:
        row: as written, or with its columns renamed; issues name the fields of this row.
        example: the result of `convert` for `fmt`.
        plain: Row.plain, with which no text has anything of what `_check_text` looks for.
    """
    if fmt.kind == "prompt":
        example = {"prompt": example["prompt"]}  # the other columns are for scoring the answer
    issues: list[QualityIssue] = []
    places = _places(_reading(fmt.name), row)
    turns_given = False
    for part, (name, value) in places.items():
        if not isinstance(value, str):
            turns_given = turns_given or part != "tools"
            if not plain:
                for field, content in _texts(part, name, value):
                    issues += _check_text(field, content)
        elif not value or value.isspace():
            if part in ("asked", "system"):
                issues.append(QualityIssue("empty", name, "is blank"))
        elif len(value) <= _LONGEST_MISSING and value in _MISSING:
            issues.append(QualityIssue("missing value", name, _is_missing(value)))
        elif not plain and ("{{" in value or garbled(value)):
            issues += _check_text(name, value)
    if turns_given and (whole := _whole(example)):
        issues += _check_turns(fmt.kind, places, whole, example)
    elif example.get("label") is not False and _repeats(example):
        issues.append(QualityIssue("answer repeats the prompt", places["answer"][0], _WORD_FOR_WORD))
    if "chosen" in example and _alike(example["chosen"], example["rejected"]):
        issues.append(QualityIssue("same answers", places["rejected"][0], "is the same as the chosen answer"))
    return issues


def _check_text(field: str, content: str) -> Iterator[QualityIssue]:
    if names := placeholders(content):
        yield QualityIssue("placeholder", field, _not_filled_in(names))
    if broken := garbled(content):
        control = len(broken) == 1 and broken < "\xa0"
        why = "is a control character" if control else "looks like text read in the wrong encoding"
        yield QualityIssue("encoding", field, f"{broken!r} {why}")


def _is_missing(text: str) -> str:
    return f"is {text!r}, which programs write for a missing value"


def _not_filled_in(names: list[str]) -> str:
    shown = ", ".join(f"{{{{{name}}}}}" for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{shown}{more} {'was' if len(names) == 1 else 'were'} never filled in"


# --- the texts of a row, with their paths ---------------------------------------------------------------------------


_Place = tuple[str, Any]  # a path and the value there
_Places = Mapping[str, _Place]


class _Reading(NamedTuple):
    """The columns that a format reads, by their part in it; of several names the first with a value counts."""

    columns: tuple[tuple[str, tuple[str, ...]], ...]
    context: tuple[tuple[str, tuple[str, ...]], ...]
    """Those of every format, which few rows have."""
    ranked: tuple[str, ...]


@cache
def _reading(name: str) -> _Reading:
    fmt = FORMATS[name]
    columns: dict[str, tuple[str, ...]] = {}
    answers: tuple[str, ...] = ()
    for need in fmt.needs:
        if isinstance(need, RankedNeed):
            answers = need.names
        elif need.shape is not LABEL:
            first = need.names[0]
            part = "answer" if first in _ANSWERS else "rejected" if first in _REJECTED else "asked"
            columns[part] = need.names
    for extra in fmt.optional:
        if extra not in RANKINGS:
            columns["asked" if extra == "prompt" else extra] = (extra,)
    context = {"system": SYSTEM, "history": HISTORY, "tools": TOOLS} if fmt.kind != "text" else {}
    return _Reading(tuple(columns.items()), tuple(context.items()), answers)


def _places(reading: _Reading, row: Fields) -> dict[str, _Place]:
    """The values that the format reads, by part: asked, answer, rejected, system, input, history and tools."""
    places = {}
    alone = _CONTEXT.isdisjoint(row)
    for part, names in reading.columns if alone else (*reading.columns, *reading.context):
        for name in names:
            value = row.get(name)
            if value is not None:
                places[part] = name, value
                break
    if reading.ranked and (listed := column(row, reading.ranked)):
        places["answer"], places["rejected"] = best_and_worst(row, listed)
    return places


def _texts(part: str, field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text to check in turns, exchanges or declared tools, with its path."""
    if part in ("tools", "history"):
        yield from _all_texts(field, value)
        return
    for index, turn in enumerate(_listed(value)):
        key = "content" if turn.get("content") is not None else key_of(turn, CONTENT_KEYS, "content")
        content = turn.get(key)
        if isinstance(content, str) and _FURTHER_TEXTS.isdisjoint(turn):
            if "{{" in content or garbled(content):  # before building the path: nearly every text is done here
                yield f"{_path(field, value, index)}.{key}", content
            continue
        for also in (key, *sorted(_FURTHER_TEXTS)):
            yield from _all_texts(f"{_path(field, value, index)}.{also}", turn.get(also))


def _all_texts(field: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if "{{" in value or garbled(value):
            yield field, value
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _all_texts(f"{field}[{index}]", entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _all_texts(f"{field}.{key}", entry)


def _path(field: str, value: Any, index: int) -> str:
    """The path of a turn in a column that holds a list of turns, or only this one."""
    return f"{field}[{index}]" if isinstance(value, list) else field


def _paths(place: _Place) -> list[str]:
    """The path of each turn in a column."""
    field, value = place
    return [_path(field, value, index) for index in range(len(_listed(value)))]


def _turn_paths(places: _Places, whole: list[Turn], answer: str) -> list[str]:
    """The path of each canonical turn, for the conversation that ends in the column `answer` ("asked" if in none)."""
    ends = _paths(places[answer]) if answer in places else []
    given = places[answer][1] if answer in places else None
    # Chosen and rejected may hold whole conversations, whatever the other columns hold.
    whole_given = answer == "asked" or "asked" not in places or (isinstance(given, list) and not is_answer(given))
    own = ends if whole_given else [*_paths(places["asked"]), *ends]
    before = _history_paths(places)
    missing = len(whole) - len(own) - len(before)
    if before and not missing and whole[0]["role"] in _SETS:
        return [own[0], *before, *own[1:]]  # the row's own system turn comes before the history
    # A missing first path is that of the system column, which comes before all others.
    return [places["system"][0], *before, *own] if missing else [*before, *own]


def _history_paths(places: _Places) -> list[str]:
    name, exchanges = places.get("history", ("", None))
    paths: list[str] = []
    for index, exchange in enumerate(exchanges or ()):
        paths += [f"{name}[{index}]"] if isinstance(exchange, dict) else [f"{name}[{index}][{part}]" for part in (0, 1)]
    return paths


# --- checks of turns ------------------------------------------------------------------------------------------------


def _whole(example: Mapping[str, Any]) -> list[Turn]:
    """The whole conversation of the example, with the chosen answer if there are two; [] for plain text."""
    if "messages" in example:
        return list(example["messages"])
    prompt = example.get("prompt")
    return [*prompt, *(example.get("chosen") or example.get("completion") or ())] if isinstance(prompt, list) else []


def _check_turns(kind: str, places: _Places, whole: list[Turn], example: Mapping[str, Any]) -> list[QualityIssue]:
    roles = tuple([_CALL if turn.get("tool_calls") else turn["role"] for turn in whole])
    odd = list(_check_order(roles))
    if kind == "messages" and roles[-1] not in _SPEAKS:
        odd.append((len(roles) - 1, "unanswered", f"the conversation ends with the {roles[-1]}'s turn"))
    before = None
    for index, turn in enumerate(whole):
        content = turn["content"]
        if _blank(content) and roles[index] != _CALL:
            odd.append((index, "empty", f"the {roles[index]}'s turn is blank"))
        elif len(content) <= _LONGEST_MISSING and content in _MISSING and roles[index] in _SAYS:
            odd.append((index, "missing value", _is_missing(content)))
        elif content == before and roles[index - 1 : index + 1] == _EXCHANGE:
            odd.append((index, "answer repeats the prompt", _WORD_FOR_WORD))
        before = content
    if example.get("label") is False:
        # A bad answer may well repeat the prompt.
        odd = [one for one in odd if one[:2] != (len(whole) - 1, "answer repeats the prompt")]
    issues = []
    if odd:
        paths = _turn_paths(places, whole, "answer" if "answer" in places else "asked")
        # The system column was checked as a text of its own.
        checked = places["system"][0] if "system" in places else ""
        issues = [QualityIssue(kind, paths[index], what) for index, kind, what in odd if paths[index] != checked]
    return issues + _check_weights(places, whole, example)


@lru_cache(maxsize=4096)
def _check_order(roles: tuple[str, ...]) -> tuple[tuple[int, str, str], ...]:
    """Index, check and message of each turn in an unusual place; cached, since few sequences of roles occur."""
    odd = []
    opened = False
    for index, role in enumerate(roles):
        before = roles[index - 1] if index else ""
        what = ""
        if role in _SETS:
            if opened or role in roles[:index]:
                what = f"the {role} turn is not first"
        elif role == "tool" and before not in ("tool", _CALL):
            what = "a tool result has no call before it"
        elif role == before == "user":
            what = "the user speaks twice in a row"
        elif role == "assistant" and before in _SPEAKS:
            what = "the assistant speaks twice in a row" if before == role else "a tool call has no result"
        if what:
            odd.append((index, "role order", what))
        if role in _SPEAKS and not opened:
            odd.append((index, "starts with the answer", "the assistant speaks first"))
        opened = opened or role not in _SETS
    return tuple(odd)


def _check_weights(places: _Places, whole: list[Turn], example: Mapping[str, Any]) -> list[QualityIssue]:
    """Turns that are marked as trained but are not the assistant's."""
    marked: list[tuple[str, str]] = []
    for part in ("asked", "answer", "rejected"):
        field, value = places.get(part, ("", ""))
        if isinstance(value, str):
            continue
        for index, turn in enumerate(_listed(value)):
            if not WEIGHTS.isdisjoint(turn):
                marked += [(_path(field, value, index), key) for key in WEIGHT_KEYS if _counts(turn.get(key))]
    if not marked:
        return []
    roles = dict(zip(_turn_paths(places, whole, "answer" if "answer" in places else "asked"), whole, strict=True))
    if "rejected" in places:
        other = [*example["prompt"], *example["rejected"]]
        roles |= zip(_turn_paths(places, other, "rejected"), other, strict=True)
    return [
        QualityIssue("weight", f"{path}.{key}", f"marks the {roles[path]['role']}'s turn as trained, which it never is")
        for path, key in marked
        if path in roles and roles[path]["role"] != "assistant"
    ]


def _counts(weight: Any) -> bool:
    return isinstance(weight, int | float) and weight > 0


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _blank(value: Any) -> bool:
    return isinstance(value, str) and (not value or value.isspace())


def _repeats(example: Mapping[str, Any]) -> bool:
    """Whether prompt and answer, each given as one text, are the same."""
    if "messages" in example:
        return bool(example["messages"][-2:-1] and _same(*example["messages"][-2:]))
    asked, given = example.get("prompt"), example.get("chosen") or example.get("completion")
    if isinstance(asked, list):
        return given is not None and _same(asked[-1], given[0])
    return asked is not None and asked == given


def _same(question: Turn, answer: Turn) -> bool:
    return bool(question["content"] == answer["content"])


def _alike(chosen: Any, rejected: Any) -> bool:
    if isinstance(chosen, str):
        return bool(chosen.strip() == rejected.strip())
    return len(chosen) == len(rejected) and all(
        one["content"].strip() == other["content"].strip() and one.get("tool_calls") == other.get("tool_calls")
        for one, other in zip(chosen, rejected, strict=True)
    )
