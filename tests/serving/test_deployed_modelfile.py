"""Ollama's Modelfile: what it says, and that it reaches nothing outside of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.core.errors import ConfigError
from ftcli.serving.deployed_modelfile import parsed

WHOLE = '''# made by hand
FROM ./model.gguf
TEMPLATE """{{ range .Messages }}<|turn|>{{ .Role }}
{{ .Content }}<|close|>
{{ end }}"""
PARAMETER stop "<|close|>"
parameter stop <|turn|>
PARAMETER temperature 0.2
SYSTEM You are helpful.
'''


def written(folder: Path, content: str) -> Path:
    file = folder / "Modelfile"
    file.write_text(content, encoding="utf-8")
    return file


def test_a_whole_one_is_read(tmp_path: Path):
    (tmp_path / "model.gguf").touch()
    found = parsed(written(tmp_path, WHOLE))
    assert found.gguf(granted=False) == tmp_path / "model.gguf"
    assert found.template == "{{ range .Messages }}<|turn|>{{ .Role }}\n{{ .Content }}<|close|>\n{{ end }}"
    assert found.parameters == {"stop": ["<|close|>", "<|turn|>"], "temperature": ["0.2"]}
    assert found.system == "You are helpful."


def test_another_model_by_name_is_no_file(tmp_path: Path):
    assert parsed(written(tmp_path, "FROM llama3.2\n")).gguf(granted=False) is None


def test_a_file_outside_of_its_folder_needs_a_grant(tmp_path: Path):
    (tmp_path / "elsewhere.gguf").touch()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "link.gguf").symlink_to(tmp_path / "elsewhere.gguf")
    for named in ("../elsewhere.gguf", str(tmp_path / "elsewhere.gguf"), "./link.gguf"):
        found = parsed(written(tmp_path / "own", f"FROM {named}\n"))
        with pytest.raises(ConfigError, match="lies outside of its folder"):
            found.gguf(granted=False)
        assert found.gguf(granted=True) is not None


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("hello world\n", "Modelfile:1.*is no line of a Modelfile"),
        ("FROM a\n\nRUN rm\n", "Modelfile:3.*is no line of a Modelfile"),
        ('FROM a\nTEMPLATE """{{ .Prompt }}\n', 'Modelfile:2.*opens """ and never closes it'),
        ("PARAMETER stop x\n", "has no line FROM"),
        ("", "has no line FROM"),
    ],
)
def test_what_is_none_is_named_with_its_line(content: str, what: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=what):
        parsed(written(tmp_path, content))
