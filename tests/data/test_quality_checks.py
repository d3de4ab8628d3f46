"""What is suspicious in a usable row is found under the field that the file has, and good text is left alone."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcli.data.files.json_reader import is_plain
from ftcli.data.files.reader import Row
from ftcli.data.formats.registry import FORMATS, convert, recognise
from ftcli.data.quality_checks import KINDS, QualityIssue, quality_issues
from ftcli.data.text_checks import garbled, placeholders
from tests.turns import assistant, system, user


def tool(content: str) -> dict:
    return {"role": "tool", "content": content}


def human(value: str) -> dict:
    return {"from": "human", "value": value}


def gpt(value: str) -> dict:
    return {"from": "gpt", "value": value}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": "b"}}}]}


def found_in(row: dict, name: str = "", **how: object) -> list[QualityIssue]:
    fmt = FORMATS[name] if name else recognise(row)
    assert fmt is not None
    return quality_issues(fmt, row, convert(fmt, Row("rows.jsonl", 17, row), **how))


# kind, row, field; each row has that one finding
FOUND = [
    ("placeholder", {"instruction": "hi", "input": "", "output": "I am {{name}}, by {{author}}."}, "output"),
    ("placeholder", {"instruction": "{{ topic }}?", "output": "b", "history": []}, "instruction"),
    ("placeholder", {"instruction": "a", "output": "b", "history": [["c", "d {{e}}"]]}, "history[0][1]"),
    ("placeholder", {"text": "Dear {{first name}},"}, "text"),
    ("placeholder", {"conversations": [human("a"), gpt("I am {{name}}")], "system": "s"}, "conversations[1].value"),
    ("placeholder", {"conversations": [human("a"), gpt("b")], "system": "You are {{name}}."}, "system"),
    (
        "placeholder",
        {"messages": [user([{"type": "text", "text": "a"}, {"type": "text", "text": "{{b}}"}]), assistant("c")]},
        "messages[0].content[1].text",
    ),
    (
        "placeholder",
        {"messages": [user("a"), {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": '{"a":"{{b}}"}'}}]}]},
        "messages[1].tool_calls[0].function.arguments",
    ),
    ("placeholder", {"messages": [user("a"), assistant("b", thinking="{{plan}}")]}, "messages[1].thinking"),
    (
        "placeholder",
        {"messages": [user("a"), assistant("b")], "tools": [{"name": "f", "description": "Asks {{who}}."}]},
        "tools[0].description",
    ),
    ("placeholder", {"conversations": [human("a")], "chosen": gpt("{{b}}"), "rejected": gpt("c")}, "chosen.value"),
    ("placeholder", {"prompt": "a", "responses": ["b", {"text": "c"}, {"text": "{{d}}"}]}, "responses[2].text"),
    ("encoding", {"prompt": "a", "completion": "cafÃ©"}, "completion"),
    ("encoding", {"question": "a", "answer": "it\x00 is"}, "answer"),
    ("encoding", {"messages": [user("a\ufffd"), assistant("b")], "label": False}, "messages[0].content"),
    ("role order", {"messages": [user("a"), user("b"), assistant("c")]}, "messages[1]"),
    ("role order", {"conversations": [human("a"), gpt("b"), gpt("c")], "system": "s"}, "conversations[2]"),
    ("role order", {"messages": [user("a"), system("s"), assistant("b")]}, "messages[1]"),
    ("role order", {"messages": [system("s"), system("t"), user("a"), assistant("b")]}, "messages[1]"),
    ("role order", {"messages": [user("a"), tool("b"), assistant("c")]}, "messages[1]"),
    ("role order", {"messages": [user("a"), CALL, assistant("c")]}, "messages[2]"),
    ("role order", {"prompt": [user("a"), assistant("b")], "completion": "c"}, "completion"),
    (
        "role order",
        {
            "prompt": "b",
            "chosen": [user("a"), user("b"), assistant("c")],
            "rejected": [user("a"), user("b"), assistant("d")],
        },
        "chosen[1]",
    ),
    ("starts with the answer", {"messages": [system("s"), assistant("a"), user("b"), assistant("c")]}, "messages[1]"),
    ("unanswered", {"messages": [user("a"), assistant("b"), user("c")], "system": "s"}, "messages[2]"),
    ("same answers", {"prompt": "a", "chosen": "b", "rejected": " b\n"}, "rejected"),
    (
        "same answers",
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b")]},
        "rejected",
    ),
    ("same answers", {"question": "a", "answers": ["b", "c", "b"]}, "answers[2]"),
    ("empty", {"instruction": "a", "output": "b", "system": ""}, "system"),
    ("empty", {"conversations": [human("a"), gpt("b")], "system": " "}, "system"),
    ("empty", {"instruction": "", "input": "a", "output": "b"}, "instruction"),
    ("empty", {"messages": [system(""), user("a"), assistant("b")]}, "messages[0]"),
    ("empty", {"messages": [user("a"), CALL, tool(""), assistant("b")]}, "messages[2]"),
    ("empty", {"messages": [user("a"), assistant("", reasoning_content="b")]}, "messages[1]"),
    ("answer repeats the prompt", {"prompt": "a", "completion": "a"}, "completion"),
    ("answer repeats the prompt", {"instruction": "a", "input": "b", "output": "a\nb"}, "output"),
    ("answer repeats the prompt", {"messages": [user("a"), assistant("a"), user("b"), assistant("c")]}, "messages[1]"),
    ("answer repeats the prompt", {"conversations": [human("a")], "chosen": gpt("a"), "rejected": gpt("b")}, "chosen"),
    ("missing value", {"prompt": "a", "completion": "nan"}, "completion"),
    ("missing value", {"instruction": "a", "input": "<NA>", "output": "b"}, "input"),
    ("missing value", {"messages": [user("None"), assistant("b")]}, "messages[0]"),
    ("weight", {"messages": [user("a", weight=1), assistant("b", weight=1)]}, "messages[0].weight"),
    (
        "weight",
        {"conversations": [{**human("a"), "train": True}, gpt("b")], "label": True, "system": "s"},
        "conversations[0].train",
    ),
    (
        "weight",
        {
            "chosen": [user("a"), assistant("b")],
            "rejected": [user("a", loss=1), assistant("c")],
        },
        "rejected[0].loss",
    ),
    ("weight", {"prompt": user("a", loss=True), "solution": "b"}, "prompt.loss"),
]


@pytest.mark.parametrize(("kind", "row", "field"), FOUND)
def test_a_suspicion_names_its_kind_and_the_field_of_the_file(kind, row, field):
    found = found_in(row)
    assert [(one.kind, one.field) for one in found] == [(kind, field)]
    assert all(one.what for one in found)


def test_every_kind_is_explained_and_tested():
    assert {kind for kind, _, _ in FOUND} == set(KINDS)
    assert all(KINDS.values())


GOOD_ROWS = [
    {"instruction": "Add.", "input": "", "output": "4", "history": []},
    {"messages": [{"role": "developer", "content": "d"}, user("a"), assistant("b")]},
    {"messages": [system("s"), {"role": "developer", "content": "d"}, user("a"), assistant("b")]},
    {"messages": [user("a"), assistant("Let me see."), CALL, CALL, tool("1"), tool("2"), assistant("b")]},
    {"messages": [user("a", weight=0), assistant("b", weight=0), user("c", loss=False), assistant("d", weight=1)]},
    {"messages": [user("a"), assistant("b", weight=None)], "system": None},
    {"messages": [user("a"), assistant("a")], "label": False},  # a bad answer may well be that
    {"prompt": "a", "completion": "a", "label": False},
    {"prompt": "a", "chosen": "b", "rejected": "a"},
    {"prompt": "a", "solution": "{{b}}\x00", "completion": 4},  # not read by the format
    {"prompt": "a", "responses": ["b", "{{c}}", "d"]},  # neither the best nor the worst
    {"instruction": "a", "output": "b", "note": "cafÃ©"},
]


@pytest.mark.parametrize("row", GOOD_ROWS)
def test_a_row_as_it_should_be_has_no_findings(row):
    assert found_in(row) == []


def test_the_other_columns_of_a_prompt_row_are_nobodys_answer():
    row = {"prompt": "a", "completion": "a", "chosen": 1, "messages": "none"}
    assert found_in(row, "prompt") == []


def test_a_further_role_has_its_meaning_in_findings_too():
    row = {"conversations": [{"from": "customer", "value": "a", "weight": 1}, {"from": "agent", "value": "b"}]}
    found = found_in(row, "sharegpt", roles={"customer": "user", "agent": "assistant"})
    assert [(one.kind, one.field) for one in found] == [("weight", "conversations[0].weight")]
    assert "the user's turn" in found[0].what


def test_a_pair_that_became_messages_keeps_the_fields_of_the_file():
    row = {"instruction": "a {{b}}", "output": "a {{b}}", "system": ""}
    found = found_in(row, wanted=("messages",))
    assert {(one.kind, one.field) for one in found} == {
        ("placeholder", "instruction"),
        ("placeholder", "output"),
        ("answer repeats the prompt", "output"),
        ("empty", "system"),
    }


def test_a_finding_says_what_is_there():
    row = {"instruction": "{{a}} {{b}} {{c}} {{d}}", "input": "x\x07", "output": "itâ€™s"}
    assert [one.what for one in found_in(row)] == [
        "{{a}}, {{b}}, {{c}} and 1 more were never filled in",
        "'â€' looks like text read in the wrong encoding",
        r"'\x07' is a control character",
    ]


def test_several_suspicions_in_one_row_are_all_told():
    row = {"conversations": [gpt("Hi"), human("{{a}}"), human("Ã¼ber"), gpt("b"), human("c")]}
    assert [(one.kind, one.field) for one in found_in(row)] == [
        ("placeholder", "conversations[1].value"),
        ("encoding", "conversations[2].value"),
        ("starts with the answer", "conversations[0]"),
        ("role order", "conversations[2]"),
        ("unanswered", "conversations[4]"),
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("I am {{name}} of {{ the.author }}, {{name}}", ["name", "the.author"]),
        ("我是{{名前}}，由{{author-2}}开发", ["名前", "author-2"]),
        ("{{first}}{{last_name}}", ["first", "last_name"]),
        ("{{" + "a" * 40 + "}}", ["a" * 40]),
        ("{{" + "a" * 41 + "}}", []),
        ("{{1, 2}, {3}} and }} and {{", []),
        ("{{ . }} {{...}} {{1}} {{}}", []),
        (r"\frac{{a}}{{b}} + x^{{n}} + y_{{i j}} + \mathbf{{A}}", []),
        ("if: ${{ secrets.TOKEN }}", []),
        ("@book{key,\n  title = {{Deep Learning}},\n}", []),
        ("Name = {{name}}", ["name"]),
        ("```html\n<p>{{ name }}</p>\n```", []),
        ("```\n{{ name }}", []),
        ("Write `{{ name }}` in Jinja.", []),
        ("```\n{{ code }}\n```\nYours, {{name}}", ["name"]),
        ("[NAME] <name> {name} %name% $name", []),
        ("{{#each items}} {{/each}} {{ hello: 'x' }} {{ x|upper }}", []),
        ('f"{{"name": 1}}"', []),
    ],
)
def test_a_placeholder_is_a_name_in_double_braces_outside_of_code(text, names):
    assert placeholders(text) == names


SENTENCES = [
    "naïve café”… “Spaß“ – größer",
    "AMANHÃ… MANHÃ” ĐÃ – NÃO, ESPAÑA, AMANHÃ\xa0É",
    "l’été…” à la plage «É» 5 °C £10 © 2020 ±3",
    "Приве́т, мир! Ñandú. ÐÑ",
    "中文，好。“是” こんにちは 안녕하세요 😀👩‍💻",
    "the letter Â is",
    "tab\tline\nreturn\r\n",
    "pâ…” pâté",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_good_text_of_any_language_is_not_called_garbled(text):
    assert garbled(text) == ""


@pytest.mark.parametrize("word", ["é", "ü", "ß", "à", "ñ", "Ö", "Å", "’", "“", "…", "–", "•", "→", "™", "€", "°", "😀"])
@pytest.mark.parametrize("before", ["", "x", " "])
def test_a_character_read_as_cp1252_is_called_garbled(word, before):
    # Bytes that cp1252 leaves undefined become control characters, as browsers and Excel do it.
    read = "".join(byte.to_bytes().decode("cp1252", "ignore") or chr(byte) for byte in word.encode())
    assert garbled(f"{before}{read} y")


@pytest.mark.parametrize("sentence", ["привет", "你好吗", "こんにちは"])
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_other_scripts_read_wrongly_are_called_garbled(sentence, encoding):
    read = "".join(byte.to_bytes().decode(encoding, "ignore") or chr(byte) for byte in sentence.encode())
    assert garbled(read)


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_control_characters_are_told_apart_from_white_space(code):
    assert bool(garbled(f"a{chr(code)}b")) == (chr(code) not in "\t\n\r")


@given(st.text(st.characters(max_codepoint=0x7E, min_codepoint=0x20) | st.sampled_from("\n\t\r"), max_size=200))
def test_ascii_is_never_garbled(text):
    assert garbled(text) == ""


SUSPICIOUS = st.sampled_from(
    ("{{name}}", "\x00", "\b", "\f", "\x7f", "\x9d", "é", "Ã©", "\ufffd", "\\u", "\\", "\n", "{", " ")
)


@given(st.lists(SUSPICIOUS | st.text(max_size=5), max_size=5).map("".join), st.booleans())
def test_a_line_is_called_plain_only_if_its_texts_need_no_look(text, ascii_only):
    line = json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=ascii_only)
    if is_plain(line.encode("utf-8", "surrogatepass")):
        assert not garbled(text)
        assert "{{" not in text
        assert not text.encode().translate(None, bytes(range(0x20, 0x7F)) + b"\n\r\t")
    assert is_plain(json.dumps({"text": 'plain "text"\n\tof \\two lines'}).encode())


@given(
    st.lists(
        st.builds(
            lambda role, content, weight: {"role": role, "content": content, "weight": weight},
            st.sampled_from(["system", "user", "assistant", "tool"]),
            st.sampled_from(["a", "b", "{{c}}", "Ã©"]),
            st.sampled_from([0, 1, None]),
        ),
        max_size=6,
    ),
    st.sampled_from([{}, {"system": ""}, {"system": "a"}, {"label": True}]),
)
def test_every_field_that_is_named_stands_in_the_row(turns, beside):
    row = {"messages": [*turns, user("a"), assistant("c")], **beside}
    if "system" in beside and turns and turns[0]["role"] == "system":
        return  # two system texts may contradict each other
    for one in found_in(row):
        assert one.kind in KINDS
        value = row
        for step in one.field.replace("[", ".").replace("]", "").split("."):
            value = value[int(step)] if step.isdigit() else value[step]


def test_a_row_of_three_turns_costs_some_microseconds():
    row = {"messages": [system("Be brief."), user("How much is 2 + 2? " * 5), assistant("It is 4. " * 20)]}
    fmt = FORMATS["messages"]
    example = convert(fmt, Row("rows.jsonl", 1, row))
    best = float("inf")
    for _ in range(20):
        start = time.process_time()  # the process's own: others may be at work
        for _ in range(200):
            quality_issues(fmt, row, example)
        best = min(best, (time.process_time() - start) / 200)
    # measured: 7 µs, two-core machine with others at work; the bound is for far worse
    assert best < 100e-6
