"""Several places in one text: what is a list, and what is one file with an odd name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.core.errors import ConfigError
from ftcli.data.path_list import join_paths, split_paths
from ftcli.data.row_sets import RowSet, fetched
from ftcli.settings.groups import SetSettings


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("[a.jsonl,b.jsonl]", ["a.jsonl", "b.jsonl"]),
        ("[a.jsonl, b.jsonl]", ["a.jsonl", "b.jsonl"]),
        ("a.jsonl,b.jsonl", ["a.jsonl", "b.jsonl"]),
        ("a.jsonl, b.csv.gz", ["a.jsonl", "b.csv.gz"]),
        ("""["a, b.jsonl",'c"d.jsonl',e f.jsonl]""", ["a, b.jsonl", 'c"d.jsonl', "e f.jsonl"]),
        ("[a.jsonl]", ["a.jsonl"]),
        ("s3://bucket/a.jsonl,https://example.org/b.jsonl", ["s3://bucket/a.jsonl", "https://example.org/b.jsonl"]),
    ],
)
def test_lists_are_split(here, text, paths):
    assert split_paths(text) == paths


@pytest.mark.parametrize(
    "text", ["a.jsonl", "rows/*.jsonl", "rows-[ab]", "a, b", "https://example.org/rows.jsonl?columns=a,b", "org/name"]
)
def test_one_place_is_not_split(here, text):
    assert split_paths(text) == text


@pytest.mark.parametrize("name", ["a.jsonl,b.jsonl", "[a.jsonl,b.jsonl]", "läuft (1), a=b.jsonl"])
def test_a_file_of_that_name_is_that_file(here, name):
    Path(name).touch()
    assert split_paths(name) == name
    assert split_paths(join_paths([name])) == name


def test_joined_paths_are_read_back(here):
    odd = ["a.jsonl", "x (1), a=b.jsonl", "[c].jsonl", '"d".jsonl', "it's.jsonl", "läuft.jsonl", " e.jsonl"]
    assert split_paths(join_paths(odd)) == odd
    assert split_paths(join_paths([" [b], c.jsonl"])) == " [b], c.jsonl"  # one place is itself


def _set(*paths: str) -> RowSet:
    return RowSet(name="data", key="data.path", settings=SetSettings(path=list(paths)))


def test_the_files_of_a_list_keep_its_order_and_expand_patterns_where_they_stand(here):
    for name in ("c.jsonl", "a2.jsonl", "a1.jsonl"):
        Path(name).touch()
    files = fetched(_set("c.jsonl", "a*.jsonl"))
    assert [Path(file.path).name for file in files] == ["c.jsonl", "a1.jsonl", "a2.jsonl"]


@pytest.mark.parametrize("second", ["a.jsonl", "./a.jsonl", "*.jsonl", "a.jsonl.gz"])
def test_a_file_in_a_list_twice_is_refused(here, second):
    Path("a.jsonl").touch()
    Path("a.jsonl.gz").touch()
    with pytest.raises(ConfigError, match="count twice"):
        fetched(_set("a.jsonl", second))
