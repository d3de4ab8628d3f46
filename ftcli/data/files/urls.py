"""Classifying and displaying addresses without opening them."""

from __future__ import annotations

import re
import urllib.parse


class Unreachable(OSError):
    """A remote file cannot be read, or not to its end."""


def is_url(path: str) -> bool:
    """Whether a path is an address with a protocol."""
    return re.match(r"[a-z][a-z0-9+.-]*(://|::)", path, re.IGNORECASE) is not None


def is_web(path: str) -> bool:
    """Whether a path is an http or https address."""
    return path.lower().startswith(("http://", "https://"))


def shown(path: str) -> str:
    """A path or address without the parts that may be secret: user, password and, on the web, the query."""
    if not is_url(path):
        return path
    if not is_web(path):
        return re.sub(r"(://)[^/@]+:[^/@]*@", r"\1", path)
    parts = urllib.parse.urlsplit(path)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
