"""The nearest valid name, for errors caused by a typo."""

from __future__ import annotations

from collections.abc import Iterable


def suggest(name: str, known: Iterable[str], prefix: str) -> str:
    """A remedy for an unknown name: the nearest known names, or the whole list, each name with `prefix`."""
    from difflib import SequenceMatcher, get_close_matches

    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    likeness = [SequenceMatcher(None, each, name).ratio() for each in near]
    if near:
        nearest = [each for each, like in zip(near, likeness, strict=True) if like == likeness[0]]
        return f"did you mean {' or '.join(prefix + each for each in sorted(nearest))}?"
    listing = ", ".join(names)
    return f"choose from {listing}" if len(listing) < 400 else f"choose from {listing[:400]} …"
