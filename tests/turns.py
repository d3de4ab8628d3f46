"""Turns and rows that tests of the data layer are written in."""

from __future__ import annotations

from typing import Any

from ftcli.data.files.reader import Row

HUMAN_ASKS = {"from": "human", "value": "2 + 2?"}
GPT_SAYS = {"from": "gpt", "value": "4"}
TOOL = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}
ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def at(value: dict[str, Any]) -> Row:
    """The row on line 17 of a file."""
    return Row("rows.jsonl", 17, value)
