"""Passwords and tokens are found and masked, and what only looks like them is left alone."""

from __future__ import annotations

import json

import pytest

from ftcli.config.credentials import held_by, masked, masked_values

TOKEN = "hf_" + "a1B2" * 8

SECRET = [
    ("https://me:secret@host/a.jsonl", "a password"),
    ("see https://me:secret@host/a.jsonl there", "a password"),
    ("zip://a.jsonl::https://me:secret@host/a.zip", "a password"),
    (f"https://{TOKEN}@host/a.jsonl", "a password"),
    ("ftp://me:secret@host/a", "a password"),
    (["a", {"b": "http://u:p@h/v1"}], "a password"),
    ({"http://u:p@h": 1}, "a password"),
    (TOKEN, "a token"),
    ("sk-" + "x" * 40, "a token"),
    ({"key": ["github_pat_" + "x" * 22]}, "a token"),
    ("AKIA" + "A" * 16, "a token"),
]


@pytest.mark.parametrize(("value", "kind"), SECRET)
def test_a_secret_is_found_wherever_it_stands_and_is_not_printed(value, kind):
    assert held_by(value) == kind
    text = masked(json.dumps(value))
    assert "secret" not in text
    assert held_by(masked_values(value).values() if isinstance(value, dict) and "key" in value else "") == ""
    for word in (TOKEN, "sk-xxx", "u:p@", "github_pat_", "AKIA"):
        assert word not in text


@pytest.mark.parametrize(
    "value",
    [
        *("https://host/a@b.jsonl", "s3://bucket/a:b@c", "hf://datasets/a/b@main/c", "ssh://git@host/a", "me@host"),
        *("sk-learn", "hf_home", "ghp_short", "a/b", "OPENAI_API_KEY", 7, None, True, "http://localhost:8000/v1"),
    ],
)
def test_what_only_looks_like_one_is_left_alone(value):
    assert held_by(value) == ""
    assert not isinstance(value, str) or masked(value) in (value, value.replace("git@", "***@"))


def test_a_setting_that_names_a_secret_is_masked_by_its_name():
    assert masked("train:\n  hub_token: abc  # mine\n") == "train:\n  hub_token: ***  # mine\n"
    assert masked('{"api_key": "abc"}') == '{"api_key": ***}'
    assert masked_values({"train": {"hub_token": "abc", "run_name": "abc"}})["train"] == {
        "hub_token": "***",
        "run_name": "abc",
    }
    plain = "max_new_tokens: 5\nnew_tokens: [a]\napi_key_env: KEY\n"
    assert masked(plain) == plain
