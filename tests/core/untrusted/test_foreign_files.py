"""Files of strangers are read within bounds, and every fault of theirs is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ftcli.core.errors import ConfigError
from ftcli.core.strict_yaml import load
from ftcli.core.untrusted import foreign_files


def test_a_plain_file_is_read(tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_text('{"a": "é"}', encoding="utf-8")
    assert foreign_files.read_json(file) == {"a": "é"}


def test_size_and_depth_are_limited_and_named(tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_bytes(b"[" + b" " * foreign_files.MAX_BYTES + b"]")
    with pytest.raises(foreign_files.Unreadable, match="larger than 8 MiB"):
        foreign_files.read_json(file)
    file.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(foreign_files.Unreadable, match="nested too deeply"):
        foreign_files.read_json(file)
    with pytest.raises(RecursionError):  # what a naive reader ends in
        json.loads("[" * 100_000)


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    pipe = tmp_path / "config.json"
    os.mkfifo(pipe)
    with pytest.raises(foreign_files.Unreadable, match="no regular file"):
        foreign_files.read_json(pipe)
    with pytest.raises(ConfigError, match="no regular file"):
        load(pipe)
    link = tmp_path / "endless.json"
    link.symlink_to("/dev/zero")
    with pytest.raises(foreign_files.Unreadable, match="no regular file"):
        foreign_files.read_bytes(link)


def test_lines_are_read_one_by_one_and_none_without_end(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes("é\nb\nc".encode())
    assert list(foreign_files.read_lines(file)) == ["é\n", "b\n", "c"]
    assert list(foreign_files.read_lines(file, limit=3)) == ["é\n", "b\n", "c"]
    file.write_bytes(b"a\n" + b"b" * 4)
    lines = foreign_files.read_lines(file, limit=3)
    assert next(lines) == "a\n"
    with pytest.raises(ValueError, match="a line of it is larger"):
        next(lines)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match="no regular file"):
        next(foreign_files.read_lines(file))
