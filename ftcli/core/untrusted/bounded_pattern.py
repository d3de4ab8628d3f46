"""Regular expressions of strangers: bounded in length, and in the time that all their matches take together.

`(a+)+b` takes time that doubles with each character of a text that it does not match: thirty of them are minutes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache

from ftcli.core.untrusted.processor_time import OutOfTime, limited

MAX_CHARACTERS = 10_000
"""Characters of a pattern."""
MATCH_SECONDS = 1.0
"""Processor time that one search may take, and all slow matches of names with one pattern together."""
SLOW_SECONDS = 5e-5
"""A match that takes no longer is not slow: usual patterns match the name of a module in a tenth of it."""


class BoundedPattern:
    """A compiled pattern whose matches end."""

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self.pattern, self._left = pattern, MATCH_SECONDS
        if len(pattern) > MAX_CHARACTERS:
            raise ValueError(f"{pattern[:40]!r}… has more than {MAX_CHARACTERS} characters")
        try:
            self._compiled = re.compile(pattern, flags)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None

    def fullmatch(self, text: str) -> re.Match[str] | None:
        """As `re.Pattern.fullmatch`.

        Raises:
            ValueError: its matches take too long.
        """
        return self._timed(self._compiled.fullmatch, text)

    def match(self, text: str) -> re.Match[str] | None:
        """As `re.Pattern.match`; errors are those of `fullmatch`."""
        return self._timed(self._compiled.match, text)

    def search(self, text: str) -> re.Match[str] | None:
        """As `re.Pattern.search`, for texts that may be long: each search has the whole time for itself."""
        try:
            with limited(MATCH_SECONDS):
                return self._compiled.search(text)
        except OutOfTime:
            raise self._endless() from None

    def _timed(self, match: Callable[[str], re.Match[str] | None], text: str) -> re.Match[str] | None:
        if self._left > 0:
            begun = time.thread_time()
            try:
                with limited(self._left):
                    found = match(text)
            except OutOfTime:
                self._left = 0.0
            else:
                taken = time.thread_time() - begun
                self._left -= taken if taken > SLOW_SECONDS else 0.0
                return found
        raise self._endless()

    def _endless(self) -> ValueError:
        what = f"{self.pattern!r} takes more than {MATCH_SECONDS:g} s of processor time to match"
        return ValueError(f"{what}: no repetition may stand inside another one")


@lru_cache(maxsize=1024)
def bounded(pattern: str, flags: int = 0) -> BoundedPattern:
    """The pattern, compiled once.

    Raises:
        ValueError: it is not a regular expression, or is too long.
    """
    return BoundedPattern(pattern, flags)
