"""Ollama's chat templates: the part of Go's language that they use, and that a row is right or not taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.models.export import modelfile
from ftcli.models.export.compared_conversations import CONVERSATIONS
from ftcli.models.export.go_template import Unsupported, render
from ftcli.models.export.modelfile import Modelfile
from ftcli.models.export.ollama_template import FAMILIES, go_template_of
from ftcli.models.templates.chat_template import CHATML, named_templates
from ftcli.models.templates.template_rendering import renderer
from ftcli.serving.deployed_modelfile import parsed

ENDS = ["<|im_end|>", "<|end|>", "</s>", "<|end_of_text|>"]
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
TULU = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] }}{% if m['role'] == 'assistant' %}"
    "{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
PHI4 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
KNOWN = {
    "chatml": "chatml",
    "qwen3": "chatml",
    "qwen2_5": "chatml with a system turn of its own",
    "llama3": "llama 3",
    "gemma3": "gemma",
    "phi3": "a role in bars",
    "zephyr": "a role in bars",
    "tulu": "a role in bars, answers ended",
    "phi4": "phi 4",
}


def tokenizer(folder: Path, template: str, bos: str = "<|begin_of_text|>") -> Path:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    tokens = {"bos_token": bos, "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens), encoding="utf-8")
    return folder


def template(name: str) -> str:
    own = {"chatml": CHATML, "zephyr": ZEPHYR, "tulu": TULU, "phi4": PHI4}
    return own[name] if name in own else named_templates()[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", KNOWN)
def test_a_family_writes_what_the_models_own_template_writes(name: str, tmp_path: Path):
    bos = "<bos>" if "gemma" in name else "<|begin_of_text|>"
    folder = tokenizer(tmp_path, template(name), bos)
    found = go_template_of(folder, ENDS)
    assert found is not None
    assert (found.family, found.compared) == (KNOWN[name], len(CONVERSATIONS))
    jinja = renderer(template(name), folder)
    for turns in CONVERSATIONS:
        # The server adds the BOS token itself.
        assert render(found.text, turns) == jinja(turns, None, opened=True).removeprefix(bos)


def test_every_row_of_the_table_is_some_templates(tmp_path: Path):
    assert set(KNOWN.values()) == set(FAMILIES)


@pytest.mark.parametrize(
    "change",
    [("<|im_end|>", "<|eot|>"), ("<|im_end|>\\n", "<|im_end|>"), ("message['content']", "message['content'] | upper")],
)
def test_a_template_that_differs_in_one_place_gets_none(change: tuple[str, str], tmp_path: Path):
    text = CHATML.replace(*change)
    assert text != CHATML
    assert go_template_of(tokenizer(tmp_path, text), ENDS) is None


def test_a_template_of_its_own_gets_none(tmp_path: Path):
    assert go_template_of(tokenizer(tmp_path, template("gptoss")), ENDS) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{{ .System }}|", "S|"),
        ("a {{- .System -}} b", "aSb"),
        ("{{ range .Messages }}{{ .Role }};{{ end }}", "system;user;assistant;"),
        ("{{ range $i, $m := .Messages }}{{ if eq $i 1 }}{{ $m.Content }}{{ $.System }}{{ end }}{{ end }}", "Q\n\nRS"),
        ("{{ $n := len .Messages }}{{ if and .System (gt $n 2) }}yes{{ else }}no{{ end }}", "yes"),
        ("{{ if .Tools }}t{{ else if not .Response }}r{{ end }}", "r"),
        ('{{ "a\\nb" }}{{ `c` }}{{/* no */}}', "a\nbc"),
        ("{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}{{ if $last }}{{ .Content }}"
         "{{ end }}{{ end }}", "A"),
        ("{{ with .System }}[{{ . }}]{{ end }}", "[S]"),
    ],
)  # fmt: skip
def test_the_part_of_go_that_is_rendered(text: str, wanted: str):
    turns = [("system", "S"), ("user", "Q"), ("user", "R"), ("assistant", "A")]  # two of one role are joined
    assert render(text, [{"role": role, "content": said} for role, said in turns]) == wanted


@pytest.mark.parametrize(
    "text", ["{{ .Unknown }}", "{{ printf .System }}", "{{ if .System }}", "{{ end }}", "{{ a | b }}"]
)
def test_what_else_go_knows_is_refused(text: str):
    with pytest.raises(Unsupported):
        render(text, CONVERSATIONS[0])


def test_a_modelfile_is_read_as_it_was_written(tmp_path: Path):
    made = Modelfile("./a-q8_0.gguf", FAMILIES["chatml"], ["<|im_end|>", "</s>"])
    (tmp_path / "Modelfile").write_text(modelfile.written(made, "a note\nof two lines"), encoding="utf-8")
    found = parsed(tmp_path / "Modelfile")
    assert Modelfile(found.source, found.template, found.parameters["stop"]) == made
