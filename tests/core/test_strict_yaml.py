"""The strict YAML reader: plain data, or an error with its line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ftcli.core import strict_yaml
from ftcli.core.errors import ConfigError


def fault(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        strict_yaml.parse(text, "r.yaml")
    return str(caught.value)


def test_scalars_are_read_as_people_mean_them():
    data = strict_yaml.parse(
        "a: 2e-5\nb: 1.\nc: 0x10\nd: yes\ne: '1'\nf: ~\ng: true\nh: .inf\ni: 012\nj: 2026-01-01\n", "r.yaml"
    ).data
    assert data == {
        "a": 2e-5, "b": 1.0, "c": 16, "d": "yes", "e": "1", "f": None, "g": True, "h": math.inf, "i": 12.0,
        "j": "2026-01-01",
    }  # fmt: skip


def test_every_key_knows_its_line():
    document = strict_yaml.parse("a: 1\nb:\n  c: 2\n  d: [x,\n    y]\n", "r.yaml")
    assert document.where(("b", "c")) == "r.yaml:3"
    assert document.where(("b", "d", "1")) == "r.yaml:5"
    assert document.where(("b", "nothing", "here")) == "r.yaml:2"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\na: 2\n", 2, "is set here and on line 1"),
        ("a: !!python/object/apply:os.system ['x']\n", 1, "YAML tag"),
        ("a: !x 1\n", 1, "YAML tag"),
        ("base: &b {x: 1}\nc:\n  <<: *b\n", 3, "merge keys"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: [1\nb: 2\n", 2, "not valid YAML"),
        ("# @package _global_\na: 1\n", 1, "package headers"),
        ("1: x\n", 1, "not a string"),
        ("- a\n", 1, "not a mapping"),
        ("a: *nothing\n", 1, "refers to no earlier anchor"),
        ("a: &a [*a]\n", 1, "refers to no earlier anchor"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_line(text, line, words):
    message = fault(text)
    assert message.startswith(f"r.yaml:{line} ")
    assert words in message


def test_aliases_count_as_what_they_expand_to():
    levels = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    levels += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "once aliases are expanded" in fault("\n".join(levels))


def test_characters_count_as_often_as_aliases_repeat_them():
    # 20 times 50,000 characters are the million that may stand in a file; the scalar itself is the first of them.
    text = f"a: &a {'x' * 49_990}\nb: [{','.join(['*a'] * 19)}]\n"
    assert len(strict_yaml.parse(text, "r.yaml").data["b"]) == 19
    more = text.replace("[*a", "[*a,*a,*a")
    assert f"more than {strict_yaml.MAX_CHARACTERS} characters once aliases are expanded" in fault(more)


def test_a_naive_reader_would_expand_aliases_to_gigabytes():
    import yaml

    # The same form with texts of one character, so that the harm can be counted: 10^4 from four lines.
    levels = ["a0: &a0 x"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 5)]
    assert str(yaml.safe_load("\n".join(levels))["a4"]).count("x") == 10_000


def test_depth_is_limited_before_the_stack_is():
    assert "nested deeper" in fault("a: " + "[" * 5000 + "]" * 5000)


def test_size_and_encoding_are_limited(tmp_path: Path):
    large = tmp_path / "large.yaml"
    large.write_bytes(b"a: 1 # " + b"x" * strict_yaml.MAX_BYTES)
    with pytest.raises(ConfigError, match="larger than"):
        strict_yaml.load(large)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\nb: é\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin.yaml:2 .*UTF-8"):
        strict_yaml.load(latin)
    missing = tmp_path / "none.yaml"
    with pytest.raises(ConfigError, match="cannot be read"):
        strict_yaml.load(missing)


def test_an_empty_file_is_an_empty_mapping():
    assert strict_yaml.parse("", "r.yaml").data == {}
    assert strict_yaml.parse("# nothing\n", "r.yaml").data == {}
