"""Rows that differ only in how they are written: case, white space, Unicode form, and punctuation at the ends.

Copies of one row often differ in that alone (scraped twice, typed again), and a held-out row of which such a copy is
trained on measures nothing. Minus signs, brackets and other marks that carry meaning in short answers stay.
"""

from __future__ import annotations

from typing import Any

_ENDS = " .,;:!?\"'“”‘’«»。、"
"""What is removed at both ends of a text, after NFKC, which turns full-width marks and `…` into these."""


def normalised(text: str) -> str:
    """A text in NFKC, case-folded, with single spaces, and without punctuation at its ends unless that is all."""
    if not text.isascii():
        import unicodedata  # a megabyte that most checks do without

        text = text if unicodedata.is_normalized("NFKC", text) else unicodedata.normalize("NFKC", text)
    plain = " ".join(text.casefold().split())
    return plain.strip(_ENDS) or plain


def normalised_value(value: Any) -> Any:
    """A canonical row, or a part of it, with all of its texts normalised; keys and roles are kept."""
    if isinstance(value, str):
        return normalised(value)
    if isinstance(value, dict):
        return {key: each if key == "role" else normalised_value(each) for key, each in value.items()}
    if isinstance(value, list):
        return [normalised_value(each) for each in value]
    return value
