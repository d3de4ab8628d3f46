"""Chat templates by name or file, and their variables, as part of the template that a model is saved with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.core.errors import ConfigError
from ftcli.models.templates.chat_template import (
    CHATML,
    CHATML_TOKENS,
    named_template,
    named_templates,
    renders,
    template_file,
    with_defaults,
    without_defaults,
)
from ftcli.models.templates.template_rendering import (
    PROBE,
    TemplateRejection,
    control_tokens,
    faults,
    renderer,
    unread_variables,
    variables,
)
from ftcli.settings.groups import ModelSettings

TEMPLATES = {"chatml": CHATML, **{name: path.read_text(encoding="utf-8") for name, path in named_templates().items()}}
READS_PARTS = ("idefics3", "llava_next", "smolvlm")
ODD = {"enable_thinking": False, "x": "a%}b{%#}'\"\n{{", "y": {"k": [1, None, True, 0.5]}}
TURNS = [
    {"role": "user", "content": 'What is <b> & "two"?'},
    {"role": "assistant", "content": "Ünd 2.", "reasoning_content": "one and one"},
    {"role": "user", "content": "Again."},
]


def test_the_names_are_those_of_the_templates_that_trl_ships_without_its_twins_for_training() -> None:
    import trl

    files = {path.stem for path in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")}
    assert set(named_templates()) == {name for name in files if not name.endswith("_training")}
    assert {"qwen3", "llama3_1", "gemma3", "gptoss"} <= set(named_templates())
    code = (
        "import sys; from ftcli.models.templates.chat_template import named_templates; named_templates(); "
        "print('trl' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_front_half_renders_a_template_as_transformers_does(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    for turns in (TURNS, list(PROBE)):
        for opened in (False, True):
            try:
                [expected], _ = render_jinja_template(
                    [turns], chat_template=TEMPLATES[name], add_generation_prompt=opened, **special
                )
            except Exception:  # as the template says
                with pytest.raises(TemplateRejection):
                    renderer(TEMPLATES[name], None)(turns, None, opened=opened)
                continue
            assert renderer(TEMPLATES[name], None)(turns, None, opened=opened) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_variable_that_the_template_sets_itself_renders_like_one_that_a_request_gives(name: str) -> None:
    whole = with_defaults(TEMPLATES[name], ODD)
    assert without_defaults(whole) == (TEMPLATES[name], ODD)
    if name in READS_PARTS:
        return
    for opened in (False, True):
        given = renderer(TEMPLATES[name], None)(TURNS[:1], None, opened=opened, variables=ODD)
        assert renderer(whole, None)(TURNS[:1], None, opened=opened) == given
        # What a request gives goes first.
        own = {"enable_thinking": True}
        given = renderer(TEMPLATES[name], None)(TURNS[:1], None, opened=opened, variables={**ODD, **own})
        assert renderer(whole, None)(TURNS[:1], None, opened=opened, variables=own) == given


def test_values_keep_their_form_in_the_template_in_macros_and_in_loops() -> None:
    text = "{{ x }}|{{ y.k[0] + 1 }}{{ y.k[1] is none }}{{ y.k[3] }}|{% macro f() %}{{ x }}{% endmacro %}{{ f() }}"
    text += "|{% for i in [1] %}{{ x }}{% endfor %}\n\nend"
    x = ODD["x"]
    assert renderer(with_defaults(text, ODD), None)([], None) == f"{x}|2True0.5|{x}|{x}\nend"


def test_later_values_are_added_to_those_that_a_template_has() -> None:
    once = with_defaults("{{ a }}{{ b }}", {"a": 1, "b": 2})
    assert without_defaults(with_defaults(once, {"b": 3}))[1] == {"a": 1, "b": 3}
    assert renderer(with_defaults(once, {"b": 3}), None)([], None) == "13"
    assert with_defaults("{{ a }}", {}) == "{{ a }}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_shipped_template_renders_text_or_says_why_not(name: str) -> None:
    found = faults(TEMPLATES[name], f"{name}.jinja", None)
    assert bool(found) == (name in READS_PARTS)
    assert all(problem.where.startswith(f"{name}.jinja") for problem in found)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("ok\n{% if %}", 2, "damaged"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", 1, "'__class__' of 'str' object is unsafe"),
        ("\n{{ cycler.__init__.__globals__.os.popen('id').read() }}", 2, "'__init__' of 'type' object is unsafe"),
        ("{{ messages.append(1) }}", 1, "'append' of 'list' object is unsafe"),
        ("{% set n = namespace() %}\n{{ n.__init__.__globals__ }}", 2, "__init__"),
        ("{{ raise_exception('never') }}", 1, "never"),
        ("{{ range(10 ** 7) | list }}", 1, "Range too big"),
        ("{% include '/etc/passwd' %}", 1, "does not render"),
        ("{% import 'os' as os %}", 1, "does not render"),
        ("{{ messages.nothing.at_all }}", 1, "does not render"),
        ("nothing of the turns", None, "writes nothing of a turn"),
    ],
)
def test_a_template_that_fails_or_reaches_for_more_is_an_error_with_its_line(
    text: str, line: int | None, what: str
) -> None:
    for template in (text, with_defaults(text, {"x": 1})):
        [problem] = faults(template, "mine.jinja", None)
        assert problem.where == ("mine.jinja" if line is None else f"mine.jinja:{line}")
        assert what in problem.what


def test_variables_are_what_a_template_reads_beside_what_it_gets() -> None:
    assert variables(TEMPLATES["qwen3"]) >= {"enable_thinking"}
    assert variables(CHATML) == frozenset()
    texts = [
        str(each) for each in unread_variables({"enable_thinkin": 1, "messages": 2}, {"enable_thinking"}, "m.kwargs")
    ]
    assert "no effect" in texts[0]
    assert "did you mean m.kwargs.enable_thinking?" in texts[0]
    assert "no variable that can be set" in texts[1]


def test_chatml_writes_its_two_tokens_and_a_bos_token_only_where_it_is_one_of_its_own() -> None:
    assert control_tokens(CHATML, None) == list(CHATML_TOKENS)
    for bos, eos, begun in (("<s>", "</s>", "<s>"), ("<|endoftext|>",) * 2 + ("",), ("<|im_start|>", "x", "")):
        own = {"bos_token": bos, "eos_token": eos}
        text = renderer(CHATML, tiny.MODEL_DIR)(PROBE, None, variables=own)
        assert text == (f"{begun}<|im_start|>user\nQuestion?<|im_end|>\n<|im_start|>assistant\nAnswer.<|im_end|>\n")


def test_a_name_or_file_that_is_none_is_an_error_with_the_nearest_name(here: Path) -> None:
    assert template_file("chatml") is None
    with pytest.raises(ConfigError, match=r"did you mean model\.chat_template=qwen3"):
        template_file("qwen33")
    with pytest.raises(ConfigError, match=r"there is no file \./mine"):
        template_file("./mine.jinja")
    Path("mine.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert named_template("./mine.jinja") == "{{ messages }}"


def test_a_listed_base_has_no_template_and_an_unknown_model_may_have_one(here: Path) -> None:
    def has(**settings: Any) -> bool:
        return renders(ModelSettings(**settings), None)

    assert not has(name_or_path="google/gemma-2-2b")
    assert not has(name_or_path="org/mine", has_template=False)
    assert has(name_or_path="google/gemma-2-2b-it")
    assert has(name_or_path="org/mine")
    assert has(name_or_path="google/gemma-2-2b", chat_template="chatml")
    Path("saved").mkdir()
    Path("saved/tokenizer_config.json").write_text(json.dumps({"chat_template": None}), encoding="utf-8")
    assert not renders(ModelSettings(name_or_path="org/mine"), Path("saved"))
