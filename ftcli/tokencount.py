"""How many tokens a data file is, counted with the `tokenizers` library alone, or estimated and said so.

Exact where the tokenizer is at hand and the file is at most 20 MB; otherwise from a sample of its beginning, or from
the usual bytes a token where there is no tokenizer to ask.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ftcli.data.columns import apply_mapping
from ftcli.data.formats import FORMATS, convert, recognise
from ftcli.data.read import read_rows
from ftcli.errors import ConfigError, DataError, Problem
from ftcli.methods import Method
from ftcli.settings import DataSettings

EXACT_BYTES = 20 * 1000 * 1000
SAMPLE_ROWS = 500
BYTES_PER_TOKEN = 4.0  # estimate: English text under vocabularies of 32k and more


@dataclass(frozen=True, kw_only=True)
class TokenCount:
    """Rows and tokens of one data file under one method; `tokens` counts what the model reads in one epoch."""

    rows: int
    kept: int
    tokens: int
    exact: bool
    longest: int = 0
    """Tokens of the longest row that is kept (of the sample, where not all rows were read)."""
    faulty: int = 0
    """Rows that cannot be read or converted; training stops on them."""
    pieces: int = 0
    """Sequences (pairs of them, for preferences) that the kept rows become: more of them where rows are split."""
    overlong: int = 0
    """Rows longer than the limit, whatever becomes of them."""


class Sequence(NamedTuple):
    """Text that becomes one sequence; a rendered template carries its special tokens in the text itself."""

    text: str
    rendered: bool


def _lengths(folder: Path | None, sequences: list[Sequence]) -> list[int]:
    """Token counts: by the tokenizer in `folder`, else estimated from the bytes."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        return [max(1, round(len(sequence.text.encode()) / BYTES_PER_TOKEN)) for sequence in sequences]
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises the base class itself
        what = f"is no tokenizer: {str(error).splitlines()[0]}"
        raise ConfigError(Problem(str(folder / "tokenizer.json"), what, "save the tokenizer again")) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoded = {
        rendered: iter(
            tokenizer.encode_batch_fast(
                [s.text for s in sequences if s.rendered is rendered], add_special_tokens=not rendered
            )
        )
        for rendered in (True, False)
    }
    return [len(next(encoded[sequence.rendered])) for sequence in sequences]


def _template(folder: Path | None) -> str | None:
    """The chat template stored beside a tokenizer."""
    if folder is None:
        return None
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    found = _tokenizer_config(folder).get("chat_template")
    return found if isinstance(found, str) else None


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise ConfigError(Problem(str(file), "is not a JSON object", "save the tokenizer again"))
    return raw


def _special_tokens(folder: Path) -> dict[str, str]:
    raw = _tokenizer_config(folder)
    tokens = {key: raw.get(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    return {key: token["content"] if isinstance(token, dict) else token for key, token in tokens.items() if token}


def renderer(folder: Path | None) -> Callable[[list[dict[str, Any]], Any], str]:
    """Conversations as text: through the template in `folder`, in the sandbox that transformers uses, else joined."""
    template = _template(folder)
    if template is None or folder is None:
        return lambda messages, tools: "\n".join(f"{turn['role']}: {turn['content']}" for turn in messages)
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks assistant turns for masks; here only its content counts."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 reads a class attribute

        def parse(self, parser: Any) -> Any:
            """The block's body, unmarked."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise TemplateRefusal(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals.update(raise_exception=refuse, strftime_now=lambda form: datetime.now().strftime(form))
    try:
        compiled, special = environment.from_string(template), _special_tokens(folder)
    except TemplateError as error:
        raise ConfigError(Problem(str(folder), f"the chat template is damaged: {error}", "save it again")) from None

    def render(messages: list[dict[str, Any]], tools: Any) -> str:
        try:
            return compiled.render(messages=messages, tools=tools, add_generation_prompt=False, **special)
        except (TemplateError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise TemplateRefusal(str(error)) from None

    return render


class TemplateRefusal(ValueError):
    """A template refused a conversation."""


def sequences_of(
    example: Mapping[str, Any], render: Callable[[list[dict[str, Any]], Any], str], end: str, *, spoken: bool = False
) -> list[Sequence]:
    """The sequences that one canonical example becomes.

    Args:
        end: the end token, which closes text that does not end in it already.
        spoken: pairs of text are turns of a conversation, as `instruct` reads them.
    """
    tools = example.get("tools")

    def closed(text: str) -> Sequence:
        return Sequence(text if end and text.endswith(end) else text + end, False)

    def joined(prompt: Any, answer: Any) -> Sequence:
        if isinstance(prompt, str) and not spoken:
            return closed(prompt + answer)
        turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        turns = [*turns, *(answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}])]
        return Sequence(render(turns, tools), True)

    if "text" in example:
        return [closed(example["text"])]
    if "messages" in example:
        return [Sequence(render(example["messages"], tools), True)]
    if "chosen" in example:
        return [joined(example["prompt"], example[side]) for side in ("chosen", "rejected")]
    return [joined(example["prompt"], example.get("completion", ""))]


def _sequences(
    file: Path, data: DataSettings, method: Method, folder: Path | None, faults: list[Any]
) -> Iterator[list[Sequence]]:
    render, found = renderer(folder), FORMATS.get(data.format)
    end = _special_tokens(folder).get("eos_token", "") if folder else ""
    for row in islice(read_rows(file, on_fault=faults.append), data.max_rows):
        try:
            row = apply_mapping(row, data.columns or {})
            found = found or recognise(row.value)
            if found is not None:
                example = convert(found, row, wanted=method.kinds)
                yield sequences_of(example, render, end, spoken=method.templates_pairs)
        except (DataError, ValueError) as error:
            faults.append(error)


def count(file: Path, data: DataSettings, method: Method, tokenizer_folder: Path | None) -> TokenCount:
    """Rows and tokens of `file` as `method` reads it.

    Raises:
        ConfigError: the tokenizer's own files are damaged.
        DataError: the file holds no row, or cannot be read on from some line.
    """
    faults: list[Any] = []
    size = file.stat().st_size
    whole = size <= EXACT_BYTES
    rows = list(islice(_sequences(file, data, method, tokenizer_folder, faults), None if whole else SAMPLE_ROWS))
    lengths = iter(_lengths(tokenizer_folder, [sequence for row in rows for sequence in row]))
    found = _tally([[next(lengths) for _ in row] for row in rows], data)
    if whole:
        exact = _is_exact(tokenizer_folder, rows)
        return replace(found, rows=len(rows) + len(faults), exact=exact, faulty=len(faults))
    sampled = sum(len(sequence.text.encode()) for row in rows for sequence in row) or 1
    scale = size / sampled
    if data.max_rows is not None and rows:  # no more rows than were asked for
        scale = max(1.0, min(scale, data.max_rows / len(rows)))
    scaled = {name: round(getattr(found, name) * scale) for name in ("kept", "tokens", "pieces", "overlong")}
    return replace(found, rows=round(len(rows) * scale), **scaled)


def _is_exact(folder: Path | None, rows: list[list[Sequence]]) -> bool:
    """Whether the model's own tokenizer, and its own template where one is needed, made the count."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        return False
    return _template(folder) is not None or not any(sequence.rendered for row in rows for sequence in row)


def _tally(rows: list[list[int]], data: DataSettings) -> TokenCount:
    """What `data` makes of rows of these lengths; `rows` and `faulty` are left to the caller."""
    limit = int(data.max_length_tokens or 0) or max((max(row) for row in rows), default=1)
    overlong = sum(max(row) > limit for row in rows)
    kept = [row for row in rows if max(row) <= limit] if data.overflow == "drop" else rows
    cut = [[min(length, limit) for length in row] for row in kept] if data.overflow == "truncate_right" else kept
    pieces = sum(math.ceil(max(row) / limit) for row in kept) if data.overflow == "split" else len(kept)
    return TokenCount(
        rows=len(rows),
        kept=len(kept),
        tokens=sum(map(sum, cut)),
        exact=False,
        longest=max((min(max(row), limit) for row in kept), default=0),
        pieces=pieces,
        overlong=overlong,
    )
