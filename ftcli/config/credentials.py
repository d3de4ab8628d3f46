"""Passwords and tokens in text: found so that none is saved, masked so that none is printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"
_URL = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<user>[^/\s@'\"]+)@", re.IGNORECASE)
"""An address with a user, and perhaps a password, in it."""
_TOKEN = re.compile(
    r"(?<![\w-])(hf_\w{20,}|sk-[\w-]{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{15,}|AKIA[0-9A-Z]{16}"
    r"|xox[abprs]-[\w-]{10,})(?![\w-])"
)
"""Tokens of the hub, of OpenAI's form, of GitHub, GitLab, AWS and Slack, as their makers mark them."""
_KEYED = re.compile(
    r"(?P<key>\b(?:hub_token|\w*(?:auth|access)_token|\w*api_key|\w*password|\w*secret\w*)[\"']?\s*[:=]\s*)(?P<value>[^\s#,}]+)",
    re.IGNORECASE,
)
"""A setting whose name says that its value is secret."""


def held_by(value: Any) -> str:
    """What a value, or something in it, holds that must not be saved: "a password", "a token"; "" for nothing."""
    if isinstance(value, Mapping):
        return _first([*value.keys(), *value.values()])
    if isinstance(value, list | tuple):
        return _first(value)
    if not isinstance(value, str):
        return ""
    for found in _URL.finditer(value):
        web = found["scheme"].lower().startswith("http")
        if web or ":" in found["user"]:  # a web address's user alone is a token as well
            return "a password"
    return "a token" if _TOKEN.search(value) else ""


def _first(values: Iterable[Any]) -> str:
    return next((held for held in map(held_by, values) if held), "")


def masked(text: str) -> str:
    """A text without its passwords and tokens."""
    text = _URL.sub(lambda found: f"{found['scheme']}{MASK}@", text)
    text = _TOKEN.sub(MASK, text)
    return _KEYED.sub(lambda found: f"{found['key']}{MASK}", text)


def masked_values(value: Any, name: str = "") -> Any:
    """Plain data without its passwords and tokens."""
    if isinstance(value, Mapping):
        return {key: masked_values(own, str(key)) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [masked_values(each, name) for each in value]
    if isinstance(value, str):
        return MASK if _KEYED.match(f"{name}: x") else masked(value)
    return value
