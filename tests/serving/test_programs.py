"""Which program serves what, and the words that start it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.core.errors import ConfigError
from ftcli.serving import programs
from ftcli.serving.programs import PROGRAMS, Program, chosen, served_of


def adapter(folder: Path, base: object = tiny.MODEL_DIR, **more: object) -> str:
    """An adapter's folder, template and end tokens beside it."""
    folder.mkdir(parents=True)
    declared = {"base_model_name_or_path": str(base), "peft_type": "LORA", "r": 16, **more}
    (folder / "adapter_model.safetensors").touch()
    (folder / "adapter_config.json").write_text(json.dumps(declared), encoding="utf-8")
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    (folder / "generation_config.json").write_text("{}", encoding="utf-8")
    return str(folder)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Say which programs are here."""

    def only(*names: str) -> None:
        found = {
            name: Program(**{**vars(each), "is_here": lambda name=name: name in names})
            for name, each in PROGRAMS.items()
        }
        monkeypatch.setattr(programs, "PROGRAMS", found)

    return only


def test_adapters_on_one_base_are_served_by_name_with_their_template_and_end_tokens(tmp_path: Path):
    first, second = adapter(tmp_path / "first"), adapter(tmp_path / "second" / "model", r=48)
    served = served_of([first, second], "ftcli serve")
    words = PROGRAMS["vllm"].words(served, 8001)
    assert words[:7] == ["vllm", "serve", str(tiny.MODEL_DIR.resolve()), "--host", "127.0.0.1", "--port", "8001"]
    assert words[words.index("--lora-modules") + 1 :][:2] == [f"first={first}", f"second={second}"]
    # It takes ranks of 8, 16, 32, 64, …: 48 needs 64.
    assert words[words.index("--max-lora-rank") + 1] == "64"
    assert words[words.index("--chat-template") + 1] == f"{first}/chat_template.jinja"
    assert words[words.index("--generation-config") + 1] == words[words.index("--tokenizer") + 1] == first
    assert PROGRAMS["vllm"].names(served) == ["first", "second"]


def test_a_whole_model_is_served_by_what_is_here(installed):
    served = served_of(["builtin:tiny"], "ftcli serve")
    installed("vllm", "transformers")
    assert chosen(served, None, "").name == "vllm"
    installed("transformers")
    assert chosen(served, None, "").name == "transformers"
    assert chosen(served, None, "").words(served, 8001)[-5:] == [
        str(tiny.MODEL_DIR.resolve()), "--host", "127.0.0.1", "--port", "8001",
    ]  # fmt: skip
    installed()
    with pytest.raises(ConfigError, match=r"vllm is not installed; transformers is not installed.*") as caught:
        chosen(served, None, "")
    assert "pip install 'transformers[serving]'" in str(caught.value)
    with pytest.raises(ConfigError, match="transformers is not installed"):
        chosen(served, "transformers", "")


def test_an_adapter_without_vllm_and_a_gguf_have_their_remedy(installed, tmp_path: Path):
    installed("transformers")
    with pytest.raises(ConfigError, match="transformers serve loads whole models only") as caught:
        chosen(served_of([adapter(tmp_path / "own" / "model")], ""), None, "")
    assert f"ftcli merge {tmp_path}/own, then ftcli serve {tmp_path}/own/merged" in str(caught.value)
    (tmp_path / "own.gguf").touch()
    gguf = served_of([str(tmp_path / "own.gguf")], "")
    with pytest.raises(ConfigError, match=r"pip install 'ftcli\[gguf\]'"):
        chosen(gguf, "llama.cpp", "")
    installed("llama.cpp")
    assert chosen(gguf, None, "").names(gguf) == ["own"]
    with pytest.raises(ConfigError, match="serves GGUF files"):
        chosen(served_of(["builtin:tiny"], ""), "llama.cpp", "")


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"use_dora": True}, "vLLM serves LoRA adapters alone"),
        ({"peft_type": "IA3"}, "vLLM serves LoRA adapters alone"),
        ({"alpha_pattern": {"q_proj": 64}}, "vLLM does not serve adapters with alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "vLLM does not serve adapters with modules_to_save"),
        ({"r": 513}, "vLLM serves ranks up to 512"),
    ],
)
def test_an_adapter_that_vllm_would_read_otherwise_is_not_given_to_it(declared, why, installed, tmp_path: Path):
    installed("vllm")
    own = adapter(tmp_path / "own" / "model", **declared)
    with pytest.raises(ConfigError, match=f"vLLM does not serve own on its base: {why}") as caught:
        chosen(served_of([own], ""), None, "")
    assert f"ftcli merge {tmp_path}/own, then ftcli serve {tmp_path}/own/merged" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("chat_template.jinja", "{{ other }}", "chat templates"),
        ("tokenizer.json", "{}", "tokens"),
        ("generation_config.json", '{"eos_token_id": 2}', "end tokens"),
    ],
)
def test_adapters_that_were_trained_with_different_things_are_not_served_as_one(file, content, what, tmp_path: Path):
    names = [adapter(tmp_path / "first"), adapter(tmp_path / "second")]
    shutil.copy(tiny.MODEL_DIR / "tokenizer.json", tmp_path / "first")
    shutil.copy(tiny.MODEL_DIR / "tokenizer.json", tmp_path / "second")
    assert list(served_of(names, "").adapters) == ["first", "second"]
    (tmp_path / "second" / file).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"second was trained with {what} other than those of first"):
        served_of(names, "")


def test_what_cannot_be_served_side_by_side_is_named(tmp_path: Path):
    other = tmp_path / "base"
    other.mkdir()
    (other / "config.json").write_text("{}", encoding="utf-8")
    first, second = adapter(tmp_path / "first"), adapter(tmp_path / "second", other)
    deep = adapter(tmp_path / "deep", first)
    cases = {
        (first, second): "was trained on",
        (first, first): "two adapters are called first",
        ("builtin:tiny", first): "is a whole model, and only adapters on one base",
        (deep,): "is an adapter on another adapter",
        (str(tmp_path / "nothing.gguf"),): "there is no file",
        (str(tmp_path),): "holds no model",
    }
    for names, what in cases.items():
        with pytest.raises(ConfigError, match=what):
            served_of(names, "ftcli serve")
