"""A proof as text and as plain data: how many rows are the same, and of each kind of difference the first row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ftcli.proofs.token_difference import KINDS

if TYPE_CHECKING:
    from ftcli.proofs.proof import Example, Proof, ShownToken


def data(proof: Proof) -> dict[str, Any]:
    """As plain data."""
    plain = {**asdict(proof), "equal": proof.equal}
    ours, theirs = plain.pop("tokens")
    plain["trained_tokens"] = {"ours": ours, "theirs": theirs}
    return plain


def lines(proof: Proof) -> Iterator[str]:
    """As text."""
    yield f"{proof.title} {proof.version} ({proof.python}) and ftcli, the same rows, {proof.rows:,} of them:"
    theirs, ours = (f"{count:,}" for count in reversed(proof.tokens))
    if proof.equal:
        yield f"  equal: the same tokens in every row, and the same {ours} of them trained"
    else:
        differ = f"{proof.alike:,} rows are equal, {proof.rows - proof.alike:,} differ"
        yield f"  {differ}; trained tokens: there {theirs}, here {ours}"
    if proof.left_out_by_both:
        yield f"  left out by both: {proof.left_out_by_both:,}"
    for each in proof.examples:
        yield from _example(each)


def _example(each: Example) -> Iterator[str]:
    yield f"  {each.kind}: {each.rows:,} ({KINDS[each.kind]}); first, row {each.row} of {each.row_set}:"
    if each.said:
        yield f"    {each.said}"
    for name, tokens in (("there", each.theirs), ("here", each.ours)):
        if tokens:
            yield f"    {name + ':':6} {_tokens(tokens)}"


def _tokens(tokens: Sequence[ShownToken]) -> str:
    """Tokens one by one, the trained ones between ⟦ and ⟧."""
    return " ".join(f"⟦{_escaped(text)}⟧" if trained else _escaped(text) for text, trained in tokens)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
