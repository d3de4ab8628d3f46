"""The nearest right name, for every error that a typo causes."""

from __future__ import annotations

from collections.abc import Iterable


def suggest(name: str, known: Iterable[str], prefix: str) -> str:
    """A remedy for an unknown name: the nearest known one, or all of them; each shown behind `prefix`."""
    from difflib import get_close_matches

    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {prefix}{near[0]}?"
    listing = ", ".join(names)
    return f"choose from {listing}" if len(listing) < 400 else f"choose from {listing[:400]} …"
