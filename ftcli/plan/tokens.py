"""Counts the tokens of a data file with the `tokenizers` library alone, or estimates them and says so.

Exact where the tokenizer is on this machine and the file has at most 20 MB; otherwise estimated from a sample of its
first rows, or from the usual bytes per token where there is no tokenizer.

The worker tokenises with transformers, which takes seconds to import. A plan must answer at once, so this file repeats
what decides the number of tokens: the chat template, the special tokens, and the end token of an answer. Tests
compare the counts with those of transformers.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ftcli.core.errors import ConfigError, DataError, Problem
from ftcli.data import row_sets
from ftcli.data.auto_length import auto_length
from ftcli.data.files.locate import DataFile
from ftcli.data.formats.columns import VARIABLES
from ftcli.data.mixture import Demand, counts
from ftcli.data.packing_estimate import best_fit_blocks
from ftcli.data.row_ledger import UNREAD, Ledger, quantiles
from ftcli.data.row_sets import RowSet
from ftcli.data.scan import Scan
from ftcli.methods import Method
from ftcli.models.templates.added_tokens import AddedTokens, closed
from ftcli.models.templates.chat_template import added_tokens, end_tokens, model_template, renders, special_tokens
from ftcli.models.templates.served_texts import ServedTexts, TextsByVariables, Unservable, pieces_of
from ftcli.models.templates.template_rendering import PROBE, Render, TemplateRejection, closing_token, renderer
from ftcli.settings.groups import DataSettings, ModelSettings

EXACT_BYTES = 20 * 1000 * 1000
SAMPLE_ROWS = 500
_OF_KEPT = ("kept", "pairs", "tokens", "pieces", "blocks", "unrolled", "unrolled_examples", "repeated_tokens")
"""Counts of the rows that are kept, of which a mix takes a part."""
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
    """Rows that cannot be read or converted; training stops at the first."""
    pieces: int = 0
    """Sequences (or pairs, for preferences) that the kept rows become: more than rows where rows are split."""
    pairs: int = 0
    """Kept rows that are pairs of answers."""
    blocks: int = 0
    """Blocks of the limit's length that best fit packs the kept rows into; 0 for pairs of sequences."""
    overlong: int = 0
    """Rows longer than the limit, whether dropped, truncated or split."""
    unrolled: int = 0
    """Kept conversations of which each trained turn is a training example of its own."""
    unrolled_examples: int = 0
    """The training examples of these conversations."""
    repeated_tokens: int = 0
    """The tokens that they have beyond those of the longest example of each."""
    max_length_tokens: int = 0
    """The limit; derived from the rows where it is auto."""
    why: str = ""
    name: str = ""
    """The name of the set, where there are several."""
    unread: tuple[str, ...] = ()
    """Columns that mean something and are not read, each with its remedy, and roles that occur nowhere."""


class Text(NamedTuple):
    """Text that becomes one sequence; text from a chat template already contains its special tokens."""

    text: str
    rendered: bool
    prompt: bool = False
    """Whether it is continued, so that nothing comes after it."""
    apart: int = 0
    """Where it is divided to be tokenised in two parts, as prompt and answer are in serving; 0: it is whole."""


def _lengths(folder: Path | None, new_tokens: Sequence[str], sequences: list[Text]) -> list[int]:
    """Token counts: by the tokenizer in `folder`, else estimated from the bytes."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        return [max(1, round(len(sequence.text.encode()) / BYTES_PER_TOKEN)) for sequence in sequences]
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises plain Exception
        what = f"is not a tokenizer: {str(error).splitlines()[0]}"
        raise ConfigError(Problem(str(folder / "tokenizer.json"), what, "save the tokenizer again")) from None
    tokenizer.add_tokens(list(new_tokens))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    end = tokenizer.token_to_id(special_tokens(folder).get("eos_token", ""))
    added, ends = AddedTokens.of(tokenizer), [] if end is None else [end]
    pieces = [piece for sequence in sequences for piece in pieces_of(sequence.text, sequence.apart)]
    encodings = iter(tokenizer.encode_batch_fast(pieces, add_special_tokens=False))

    def length(sequence: Text) -> int:
        ids = [token for _ in pieces_of(sequence.text, sequence.apart) for token in next(encodings).ids]
        if sequence.rendered:
            return len(ids)
        return len(added.opened(ids) if sequence.prompt else added.whole(ids, ends))

    return [length(sequence) for sequence in sequences]


def sequences_of(
    kind: str,
    example: Mapping[str, Any],
    render: Render,
    end: str,
    texts: TextsByVariables | None = None,
    unroll: bool = False,
) -> list[Text]:
    """The sequences that one canonical example becomes.

    Args:
        kind: its dataset type. A prompt keeps all columns of its row, so its columns do not say what it is.
        end: the end token, appended to text that does not end in it already.
        texts: turns a conversation into training examples, several where the template rewrites earlier turns; None
            takes it whole.
        unroll: whether each trained turn is an example of its own in any case.
    """
    tools, own = example.get("tools"), {"variables": example.get(VARIABLES)}

    def joined(prompt: Any, answer: Any) -> Text:
        return (
            Text(prompt + closed(answer, end, (end,)), False)
            if isinstance(prompt, str)
            else Text(render([*prompt, *answer], tools, **own), True)
        )

    if kind == "prompt":  # to be answered during training
        prompt = example["prompt"]
        return [
            Text(prompt, False, prompt=True)
            if isinstance(prompt, str)
            else Text(render(prompt, tools, opened=True, **own), True)
        ]
    if "text" in example:
        return [Text(closed(example["text"], end, (end,)), False)]
    if "messages" in example and texts is None:
        return [Text(render(example["messages"], tools, **own), True)]
    if "messages" in example:
        assert texts is not None
        return _served(texts.of(example.get(VARIABLES)), example["messages"], 0, tools, unroll)
    if "chosen" in example:
        return [_until(joined(example["prompt"], example[side]), end) for side in ("chosen", "rejected")]
    if texts is not None and "label" not in example and not isinstance(example["prompt"], str):
        start = len(example["prompt"])
        turns = [*example["prompt"], *example["completion"]]
        return _served(texts.of(example.get(VARIABLES)), turns, start, tools, unroll)
    answered = joined(example["prompt"], example["completion"])
    return [_until(answered, end) if "label" in example else answered]


def _served(texts: ServedTexts, turns: list[dict[str, Any]], start: int, tools: Any, unroll: bool) -> list[Text]:
    """The training examples of a conversation whose assistant turns from `start` on are trained."""
    adapted = texts.forms.adapted(turns)
    trained = [
        i for i, turn in enumerate(adapted) if i >= start and turn["role"] == "assistant" and turn.get("weight", 1)
    ]
    try:
        return [
            Text(each.text, True, apart=each.apart) for each in texts.examples(None, adapted, trained, tools, unroll)
        ]
    except (DataError, Unservable) as refused:
        raise TemplateRejection(str(refused)) from None


def _served_texts(folder: Path | None, render: Render, new_tokens: Sequence[str]) -> TextsByVariables | None:
    """Conversations as the worker trains them; None where the end tokens are not known."""
    if folder is None:
        return None
    own, closing = special_tokens(folder).get("eos_token", ""), None
    with suppress(TemplateRejection):
        closing = closing_token(render(PROBE, None), [*added_tokens(folder).values(), *new_tokens])
    stops = [token for token in dict.fromkeys([*end_tokens(folder), own, closing]) if token]
    specials = re.compile("|".join(map(re.escape, stops)) or "(?!)")

    def texts(variables: Mapping[str, Any]) -> ServedTexts:
        def given(_: Any, turns: list[dict[str, Any]], tools: Any, opened: bool) -> str:
            try:
                return render(turns, tools, opened=opened, variables=variables)
            except TemplateRejection as refused:
                raise DataError(Problem("", str(refused))) from None

        return ServedTexts(given, stops, specials, own)

    return TextsByVariables(texts)


def _until(answered: Text, end: str) -> Text:
    """The text of an answer up to its end token, without the white space that templates add after it."""
    bare = answered.text.rstrip()
    return Text(bare, True) if answered.rendered and end and bare.endswith(end) else answered


@dataclass
class _SetCount:
    """The rows of one set that were read; a sample represents `scale` times as many."""

    name: str
    rows: list[list[int]]
    """For each usable row, the lengths of its sequences in tokens."""
    faulty: int
    pairs: bool = False
    """Whether the sequences of a row are the two answers of a pair."""
    scale: float = 1.0
    exact: bool = True
    unread: tuple[str, ...] = ()


def count(
    data: DataSettings, method: Method, model: ModelSettings, tokenizer_folder: Path | None, limit: int | None = None
) -> TokenCount:
    """Rows and tokens that `method` reads in one epoch of the training data.

    Args:
        model: whose chat template and new tokens decide, beside its tokenizer.
        limit: the model's number of positions, or None.

    Raises:
        ConfigError: the tokenizer's own files are damaged.
        DataError: a set holds no row, or too few for what the mix asks of it.
    """
    sets = row_sets.train_sets(data, method)
    located = [row_sets.located(each, each.key, fetch=False) for each in sets]
    counted = [
        _count_set(each, files, data, method, model, tokenizer_folder)
        for each, files in zip(sets, located, strict=True)
        if files is not None
    ]
    lengths = Counter(max(row) for each in counted for row in each.rows)
    if isinstance(data.max_length_tokens, int):
        longest, why = data.max_length_tokens, "set"
    else:
        longest, why = auto_length(quantiles(lengths), limit, method.block_tokens)
    overflow = method.overflow if data.overflow == "auto" else data.overflow
    found = [_tally(each, longest, overflow) for each in counted]
    if data.mix is not None and len(found) == len(sets):
        found = _mixed(found, sets)
    whole: dict[str, Any] = {
        name: sum(getattr(each, name) for each in found) for name in ("rows", "faulty", "overlong", *_OF_KEPT)
    }
    exact = len(found) == len(sets) and all(each.exact for each in found)
    longest_row = max((each.longest for each in found), default=0)
    unread = tuple(dict.fromkeys(each for one in found for each in one.unread))
    return TokenCount(**whole, exact=exact, longest=longest_row, max_length_tokens=longest, why=why, unread=unread)


def _count_set(
    each: RowSet,
    files: Sequence[DataFile],
    data: DataSettings,
    method: Method,
    model: ModelSettings,
    folder: Path | None,
) -> _SetCount:
    size = sum(os.path.getsize(file.path) for file in files)
    whole = size <= EXACT_BYTES
    ledger = Ledger(each.name, each.path)
    most = None if whole else SAMPLE_ROWS
    how: dict[str, Any] = {"max_rows": data.max_rows, "max_usable": most, "prompts": False, "normalises": False}
    scan = Scan(files, each.settings, method, ledger, has_template=renders(model, folder), **how)
    template = model_template(model, folder)
    render, end = renderer(template, folder), special_tokens(folder).get("eos_token", "") if folder else ""
    texts = _served_texts(folder, render, model.new_tokens or ()) if template is not None else None
    rows, rejected, pairs = [], 0, False
    for example in scan:
        pairs = pairs or example.kind == "preference"
        try:
            rows.append(sequences_of(example.kind, example.value, render, end, texts, example.unroll))
        except TemplateRejection:
            rejected += 1
    new_tokens = model.new_tokens or ()
    lengths = iter(_lengths(folder, new_tokens, [sequence for row in rows for sequence in row]))
    found = _SetCount(each.name, [[next(lengths) for _ in row] for row in rows], ledger.rows_bad + rejected)
    found.pairs = pairs
    found.unread = tuple(f"column {one['field']} {one['what']}" for one in ledger.shown(UNREAD))
    if whole:
        key = each.key.removesuffix(".path")
        found.unread += tuple(f"{key}.roles names {name}, which no turn of the rows has" for name in scan.unheard_roles)
        found.exact = _is_exact(folder, template, rows)
        return found
    sampled = sum(len(sequence.text.encode()) for row in rows for sequence in row) or 1
    found.scale, found.exact = size / sampled, False
    if data.max_rows is not None and rows:  # no more rows than data.max_rows
        found.scale = max(1.0, min(found.scale, data.max_rows / len(rows)))
    return found


def _is_exact(folder: Path | None, template: str | None, rows: list[list[Text]]) -> bool:
    """Whether the model's own tokenizer was used, and its own template where a row needs one."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        return False
    return template is not None or not any(sequence.rendered for row in rows for sequence in row)


def _tally(counted: _SetCount, limit: int, overflow: str) -> TokenCount:
    """The token count of rows of these lengths under the limit and the overflow setting."""
    rows = counted.rows
    overlong = sum(max(row) > limit for row in rows)
    kept = [row for row in rows if max(row) <= limit] if overflow == "drop" else rows
    cuts = overflow.startswith("truncate")
    cut = [[min(length, limit) for length in row] for row in kept] if cuts else kept
    splits = overflow == "split"
    pieces = sum(sum(math.ceil(length / limit) if splits else 1 for length in row) for row in kept)
    if counted.pairs:
        pieces = len(kept)
    several = [row for row in kept if len(row) > 1 and not counted.pairs]
    scaled = {
        "unrolled": len(several),
        "unrolled_examples": sum(map(len, several)),
        "repeated_tokens": sum(sum(row) - max(row) for row in several),
        "kept": len(kept),
        "pairs": len(kept) if counted.pairs else 0,
        "tokens": sum(map(sum, cut)),
        "pieces": pieces,
        "blocks": 0 if counted.pairs else best_fit_blocks([length for row in cut for length in row], limit),
        "overlong": overlong,
        "rows": len(rows) + counted.faulty,
    }
    numbers: dict[str, Any] = {name: round(number * counted.scale) for name, number in scaled.items()}
    return TokenCount(
        **numbers,
        exact=counted.exact,
        longest=max((min(max(row), limit) for row in kept), default=0),
        faulty=counted.faulty,
        name=counted.name,
        unread=counted.unread,
    )


def _mixed(found: list[TokenCount], sets: Sequence[RowSet]) -> list[TokenCount]:
    """Each set's count, scaled to the rows that the mix takes of it, at their average length."""
    sizes = counts([Demand.of(each.name, each.settings) for each in sets], [each.kept for each in found])
    return [
        replace(
            each,
            **{name: round(getattr(each, name) * size / max(1, each.kept)) for name in _OF_KEPT},
            exact=each.exact and size == each.kept,
        )
        for each, size in zip(found, sizes, strict=True)
    ]
