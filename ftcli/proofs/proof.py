"""The same rows, tokenised in the tool that a configuration comes from and in ftcli, compared row by row."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ftcli.build.resolve import build
from ftcli.config.compose import Request, compose
from ftcli.config.conversion import Conversion
from ftcli.core.errors import ConfigError, Problem
from ftcli.data import row_sets
from ftcli.data.files.reader import read_rows
from ftcli.data.row_sets import WRITTEN, RowSet
from ftcli.launch.worker_request import answers
from ftcli.models.known_shapes import tokenizer_folder
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.proofs import peer_process
from ftcli.proofs.peer_tools import PEER_TOOLS, PeerTool
from ftcli.proofs.token_difference import KINDS, Difference, Rules, TokenRow, differences
from ftcli.settings.groups import DataSettings
from ftcli.settings.ownership import ALLOW_PATH
from ftcli.settings.run_spec import RunSpec

_UNMASKED = ("reward",)
"""Methods that score a whole conversation: no token of it is trained more than another."""
_JOINED = ("pretrain",)
"""Methods that cut blocks out of joined rows: how long one row is says nothing."""
_BEFORE, _AFTER = 6, 10
"""Tokens that are shown before the first difference and from it on."""

ShownToken = tuple[str, bool]


@dataclass(frozen=True, kw_only=True)
class Example:
    """The first row that differs in one way, as its tokens stand in both tools."""

    kind: str
    row_set: str
    row: int
    """Its number among the rows of its set, from 1."""
    rows: int = 0
    """How many rows differ in this way."""
    ours: tuple[ShownToken, ...] = ()
    """Tokens around the difference, each with whether it is trained."""
    theirs: tuple[ShownToken, ...] = ()
    said: str = ""
    """Of a row that is left out, by whom and why."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What came of comparing rows."""

    title: str
    version: str
    python: str
    rows: int
    alike: int
    """Rows of which both tools make the same, those that both leave out among them."""
    left_out_by_both: int
    tokens: tuple[int, int]
    """Trained tokens, ours and theirs."""
    examples: tuple[Example, ...]
    """Of each kind of difference the first row."""

    @property
    def equal(self) -> bool:
        """Whether no row differs."""
        return self.rows == self.alike


def prove(found: Conversion, peer_python: str | None, num_rows: int) -> Proof:
    """Compare the first rows of every set of a configuration.

    Args:
        peer_python: the other tool's interpreter; None looks where the benchmarks make one.
        num_rows: rows of each set.

    Raises:
        ConfigError: it cannot be compared: a tool without a driver, or not at hand; a method whose rows are no answers;
            a recipe that is not the same training; a model or rows that are not here.
        DataError: the rows have no format that the recipe's method can use.
        WorkerFailed: the worker has told why.
    """
    tool = _tool(found)
    python = peer_process.interpreter(tool, found.title, peer_python)
    with tempfile.TemporaryDirectory(prefix="ftcli-") as name:
        folder = Path(name)
        run = _run(found, folder)
        sets = row_sets.train_sets(run.spec.data, run.method)
        settings = tool.sets(found.draft)
        if len(sets) != len(settings):
            what = f"the recipe reads {len(sets)} sets and the file names {len(settings)}: no pairs to compare"
            raise ConfigError(Problem("--prove", what, "import a file that names its sets one by one"))
        files = [_written(row_set, folder / f"rows-{i}.jsonl", num_rows) for i, row_set in enumerate(sets)]
        ours = [list(_ours(run, row_set, file)) for row_set, file in zip(sets, files, strict=True)]
        model = _tokenizer(run.spec)
        request = {
            "settings": tool.settings(found.draft),
            "method": run.method.name,
            "whole": run.method.name in _JOINED,
            "model": str(peer_process.tokenizer_copy(model, folder / "tokenizer")),
            "sets": [{"rows": str(f), "settings": each} for f, each in zip(files, settings, strict=True)],
        }
        (folder / "peer").mkdir()
        told = peer_process.answer(python, tool.driver, request, folder / "peer", found.title)
        names = [row_set.name for row_set in sets]
        theirs = [[TokenRow.of(row) for row in rows] for rows in told["sets"]]
        limit = run.spec.data.max_length_tokens
        compared = _Comparison(run.method.name, limit if isinstance(limit, int) else None, _Decoder(model))
        about = {"title": found.title, "version": str(told["version"]), "python": str(python)}
        return compared.proof(list(zip(names, ours, theirs, strict=True)), about)


def _tool(found: Conversion) -> PeerTool:
    tool = PEER_TOOLS.get(found.tool)
    if tool is None:
        what = f"there is no driver for {found.title}, so its tokens cannot be compared"
        raise ConfigError(
            Problem("--prove", what, "leave it out; it is there for LLaMA-Factory, Axolotl, ms-swift, TRL")
        )
    if found.account.unsupported:
        what = f"the recipe is not the same training: {found.account.unsupported[0]}"
        raise ConfigError(Problem("--prove", what, "leave it out: there is nothing to prove"))
    method = found.draft.choices["method"]
    if method not in tool.methods:
        what = f"the rows of method={method} are not compared with {found.title}"
        raise ConfigError(Problem("--prove", what, f"leave it out; compared are {', '.join(tool.methods)}"))
    return tool


def _run(found: Conversion, folder: Path) -> ResolvedRun:
    """The recipe as it was written, composed and checked."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(found.recipe_at(folder), encoding="utf-8")
    return build(compose(Request(overrides=(f"recipe={recipe}",), grants=frozenset({ALLOW_PATH}))))


def _tokenizer(spec: RunSpec) -> Path:
    folder = tokenizer_folder(spec.model)
    if folder is None:
        what = f"{spec.model.name_or_path} is not on this machine, and the other tool is given no network"
        raise ConfigError(Problem("model.name_or_path", what, "name a folder with its tokenizer, or download it first"))
    return folder


def _written(row_set: RowSet, file: Path, num_rows: int) -> Path:
    """The first rows of a set as a file of JSON lines, as they stand in theirs."""
    rows = chain.from_iterable(map(read_rows, row_sets.fetched(row_set)))
    lines = (json.dumps(row.value, ensure_ascii=False, default=str) for row in islice(rows, num_rows))
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def _ours(run: ResolvedRun, row_set: RowSet, file: Path) -> Iterator[TokenRow]:
    """The rows of a set as the recipe trains on them, before they are packed."""
    spec = run.spec
    length = {name: getattr(spec.data, name) for name in ("max_length_tokens", "overflow")}
    written = {name: getattr(row_set.settings, name) for name in WRITTEN if name != "delimiter"}
    data = DataSettings(path=str(file), max_bad_share=1.0, **length, **written)
    alone = replace(spec, data=data, method={**spec.method, "packing": False})
    request = {"spec": alone.to_json(), "trust_remote_code": False, "whole": run.method.name in _JOINED}
    yield from (TokenRow.of(row) for row in answers("tokens", request))


class _Decoder:
    """Tokens as text."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer  # only here: a proof alone needs it

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def shown(self, row: TokenRow, sequence_name: str, place: int) -> tuple[ShownToken, ...]:
        """The tokens around a difference; none of a row that is left out."""
        name = sequence_name if sequence_name in row.sequences else next(iter(row.sequences), "")
        if name not in row.sequences:
            return ()
        sequence = row.sequences[name]
        span = slice(max(0, place - _BEFORE), place + _AFTER)
        return tuple(zip(map(self._text, sequence.ids[span]), sequence.trained[span], strict=True))

    def _text(self, token: int) -> str:
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        return str(text) or f"[{token}]"

    def is_blank(self, token: int) -> bool:
        """Whether a token is white space."""
        return self._text(token).isspace()


class _Comparison:
    """Compares rows, and keeps of each kind of difference the first."""

    def __init__(self, method: str, limit: int | None, decoder: _Decoder) -> None:
        own = None if method in _JOINED else limit
        self._rules = Rules(limit=own, masks=method not in _UNMASKED, is_blank=decoder.is_blank)
        self._decoder = decoder

    def proof(self, sets: Sequence[tuple[str, list[TokenRow], list[TokenRow]]], about: dict[str, str]) -> Proof:
        """What came of all sets."""
        pairs = [(name, row, *pair) for name, *both in sets for row, pair in enumerate(zip(*both, strict=True), 1)]
        alike = neither = 0
        first, counts = dict[str, Example](), dict.fromkeys(KINDS, 0)
        for name, row, ours, theirs in pairs:
            found = differences(ours, theirs, self._rules)
            alike += not found
            neither += not found and not ours.sequences
            for each in found:
                counts[each.kind] += 1
                first.setdefault(each.kind, self._example(name, row, ours, theirs, each))
        examples = tuple(replace(first[kind], rows=counts[kind]) for kind in KINDS if kind in first)
        tokens = sum(ours.num_trained for *_, ours, _ in pairs), sum(theirs.num_trained for *_, theirs in pairs)
        numbers = {"rows": len(pairs), "alike": alike, "left_out_by_both": neither, "tokens": tokens}
        whole: dict[str, Any] = {**about, **numbers, "examples": examples}
        return Proof(**whole)

    def _example(self, name: str, row: int, ours: TokenRow, theirs: TokenRow, each: Difference) -> Example:
        said = f"there: {theirs.dropped}" if theirs.dropped else f"here: {ours.dropped}" if ours.dropped else ""
        here = self._decoder.shown(ours, each.sequence, each.ours)
        there = self._decoder.shown(theirs, each.sequence, each.theirs)
        return Example(kind=each.kind, row_set=name, row=row, said=said, ours=here, theirs=there)
