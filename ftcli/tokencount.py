"""How many tokens a data file is, counted with the `tokenizers` library alone, or estimated and said so.

Exact where the tokenizer is at hand and the file is at most 20 MB; otherwise from a sample of its beginning, or from the
usual bytes a token where there is no tokenizer to ask.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ftcli.data.columns import apply_mapping
from ftcli.data.formats import FORMATS, convert, recognise
from ftcli.data.read import read_rows
from ftcli.errors import DataError
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


class Sequence(NamedTuple):
    """Text that becomes one sequence; a rendered template carries its special tokens in the text itself."""

    text: str
    rendered: bool


def _lengths(folder: Path | None, sequences: list[Sequence]) -> list[int]:
    """Token counts: by the tokenizer in `folder`, else estimated from the bytes."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        return [max(1, round(len(sequence.text.encode()) / BYTES_PER_TOKEN)) for sequence in sequences]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoded = {
        rendered: iter(
            tokenizer.encode_batch_fast([s.text for s in sequences if s.rendered is rendered], add_special_tokens=not rendered)
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
    config = folder / "tokenizer_config.json"
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    return found if isinstance(found, str) else None


def _special_tokens(folder: Path) -> dict[str, str]:
    config = folder / "tokenizer_config.json"
    raw = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    tokens = {key: raw.get(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    return {key: token["content"] if isinstance(token, dict) else token for key, token in tokens.items() if token}


def renderer(folder: Path | None) -> Callable[[list[dict[str, Any]], Any], str]:
    """Conversations as text: through the template in `folder`, in the sandbox that transformers uses, else joined."""
    template = _template(folder)
    if template is None or folder is None:
        return lambda messages, tools: "\n".join(f"{turn['role']}: {turn['content']}" for turn in messages)
    from jinja2 import nodes
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
    environment.globals.update(raise_exception=refuse, strftime_now=lambda form: form)
    compiled, special = environment.from_string(template), _special_tokens(folder)
    return lambda messages, tools: compiled.render(messages=messages, tools=tools, add_generation_prompt=False, **special)


class TemplateRefusal(ValueError):
    """A template refused a conversation."""


def sequences_of(
    example: Mapping[str, Any], render: Callable[[list[dict[str, Any]], Any], str], end: str
) -> list[Sequence]:
    """The sequences that one canonical example becomes."""
    tools = example.get("tools")

    def joined(prompt: Any, answer: Any) -> Sequence:
        if isinstance(prompt, list):
            return Sequence(render([*prompt, *answer], tools), True)
        return Sequence(f"{prompt}{answer}{end}", False)

    if "text" in example:
        return [Sequence(example["text"] + end, False)]
    if "messages" in example:
        return [Sequence(render(example["messages"], tools), True)]
    if "chosen" in example:
        return [joined(example["prompt"], example[side]) for side in ("chosen", "rejected")]
    return [joined(example["prompt"], example.get("completion", ""))]


def _sequences(file: Path, data: DataSettings, method: Method, folder: Path | None, faults: list[Any]) -> Iterator[list[Sequence]]:
    render, found = renderer(folder), FORMATS.get(data.format)
    end = _special_tokens(folder).get("eos_token", "") if folder else ""
    for row in islice(read_rows(file, on_fault=faults.append), data.max_rows):
        try:
            row = apply_mapping(row, data.columns or {})
            found = found or recognise(row.value)
            if found is not None:
                yield sequences_of(convert(found, row, wanted=method.kinds), render, end)
        except (DataError, ValueError) as error:
            faults.append(error)


def count(file: Path, data: DataSettings, method: Method, tokenizer_folder: Path | None) -> TokenCount:
    """Rows and tokens of `file` as `method` reads it."""
    faults: list[Any] = []
    size = file.stat().st_size
    whole = size <= EXACT_BYTES
    rows = list(_sequences(file, data, method, tokenizer_folder, faults)) if whole else []
    if not whole:
        rows = list(islice(_sequences(file, data, method, tokenizer_folder, faults), SAMPLE_ROWS))
    lengths = iter(_lengths(tokenizer_folder, [sequence for row in rows for sequence in row]))
    longest = [[next(lengths) for _ in row] for row in rows]
    limit = int(data.max_length_tokens or 0)
    fits = [row for row in longest if max(row) <= limit] if data.overflow == "drop" and limit else longest
    tokens = sum(min(length, limit) if data.overflow == "truncate_right" else length for row in fits for length in row)
    longest_kept = max((min(length, limit or length) for row in fits for length in row), default=0)
    exact = whole and tokenizer_folder is not None
    if whole:
        return TokenCount(
            rows=len(rows) + len(faults),
            kept=len(fits),
            tokens=tokens,
            exact=exact,
            longest=longest_kept,
            faulty=len(faults),
        )
    sampled = sum(len(sequence.text.encode()) for row in rows for sequence in row) or 1
    scale = size / sampled
    estimate = [round(value * scale) for value in (len(rows), len(fits), tokens)]
    return TokenCount(rows=estimate[0], kept=estimate[1], tokens=estimate[2], exact=False, longest=longest_kept)
