"""A chat template from a stranger ends, whatever it says; and what real templates do is far from the limits."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import TemplateError

from ftcli.core.errors import ConfigError
from ftcli.models.templates import template_sandbox
from ftcli.models.templates.template_rendering import PROBE, TemplateRejection, faults, renderer
from ftcli.models.templates.template_sandbox import BoundedEnvironment, Budget, size
from tests.models.templates.test_chat_template import READS_PARTS, TEMPLATES

STEPS, CHARACTERS, VALUES = (
    f"takes more than {limit} {name} to render a conversation"
    for name, limit in (
        ("steps", template_sandbox.MAX_STEPS),
        ("characters", template_sandbox.MAX_CHARACTERS),
        ("values", template_sandbox.MAX_VALUES),
    )
)
DOUBLED = "{% set x = 'abcdefgh' %}" + "{% set x = x ~ x %}" * 40
ENDLESS: dict[str, tuple[str, str]] = {
    "nested loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", STEPS),
    "loops over loops": (
        "{% for a in range(9999) recursive %}"
        "{% if loop.depth < 4 %}{{ loop(range(9999)) }}{% endif %}{% endfor %}", STEPS,
    ),
    "a filter in a loop": ("{% for a in range(99999) %}{{ range(99999) | list | length }}{% endfor %}", VALUES),
    "macros that call twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", STEPS,
    ),
    "a macro that calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "call themselves without end"),
    "text that doubles": (DOUBLED, CHARACTERS),
    "text that doubles by a plus": (DOUBLED.replace("~", "+"), CHARACTERS),
    "text that doubles in a block": (
        "{% set x = 'abcdefgh' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40, CHARACTERS,
    ),
    "text times a number": ("{{ 'x' * 10 ** 10 }}", CHARACTERS),
    "text of the template, repeated": ("{% for a in range(99999) %}" + "x" * 9999 + "{% endfor %}", CHARACTERS),
    "replaced by itself": (
        "{% set x = 'a' * 99999 %}{{ x.replace('a', x) }}", CHARACTERS,
    ),
    "replaced by a filter": ("{% set x = 'a' * 99999 %}{{ x | replace('a', x) }}", CHARACTERS),
    "joined by itself": ("{% set x = 'a' * 99999 %}{{ x.join(x) }}", CHARACTERS),
    "joined by a filter": ("{% set x = 'a' * 99999 %}{{ ([x] * 9) | join(x * 99) }}", CHARACTERS),
    "centred": ("{{ 'x'.center(10 ** 10) }}", "gives a function a number above"),
    "centred by a filter": ("{{ 'x' | center(10 ** 10) }}", "gives a function a number above"),
    "centred often": ("{% set x = 'a ' * 99999 %}{{ x | indent(99999) }}", CHARACTERS),
    "a wide format": ("{{ '{:>9999999999}'.format(1) }}", "more than four digits"),
    "a wide percent": ("{{ '%9999999999d' % 1 }}", "more than four digits"),
    "a wide format by a filter": ("{{ '%9999999999d' | format(1) }}", "more than four digits"),
    "a format of itself": (
        "{% set x = '{0}' * 9999 %}{% set y = 'a' * 99999 %}{{ x.format(y) }}", CHARACTERS,
    ),
    "a wide date": ("{{ strftime_now('%9999999999Y') }}", "more than four digits"),
    "a large power": ("{{ 10 ** (10 ** 10) }}", "binary digits"),
    "a number that squares": ("{% set n = 99999 %}" + "{% set n = n * n %}" * 40 + "{{ n }}", "binary digits"),
    "rounded far": ("{{ 5 | round(-99999) }}", "gives a function a number above"),
    "a list that doubles": ("{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}", VALUES),
    "a list that doubles and is compared": (
        "{% set a = [1] %}{% set b = [1] %}" + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60 + "{{ a == b }}", VALUES,
    ),
    "a list times a number": ("{{ ([0] * 10 ** 9) | length }}", VALUES),
    "a text as a list": ("{% set x = 'a' * 99999999 %}{{ x | list | length }}", VALUES),
    "a mapping that doubles": ("{% set a = {} %}" + "{% set a = {'x': a, 'y': a} %}" * 60 + "{{ a | tojson }}", VALUES),
    "a text that is split": ("{% set x = 'a ' * 9999999 %}{{ x.split() | length }}", VALUES),
    "pieces of a text": ("{% set x = 'a' * 999999 %}" + "{% set y = x[1:] %}" * 999, CHARACTERS),
    "a namespace in itself": ("{% set n = namespace() %}{% set n.n = n %}{{ n }}", "a namespace has no text"),
}  # fmt: skip


@pytest.mark.parametrize(("template", "said"), ENDLESS.values(), ids=list(ENDLESS))
def test_what_would_not_end_or_fill_the_memory_is_refused_with_its_line(template: str, said: str) -> None:
    [problem] = faults("one line\n" + template, "their.jinja", None)
    assert said in problem.what
    assert problem.where.startswith("their.jinja:2")


def test_a_template_that_ends_for_the_probe_ends_for_every_conversation() -> None:
    template = "{% for m in messages %}{{ m.content }}{% if m.content == 'go' %}{% for a in range(99999) %}"
    template += "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}{% endfor %}"
    assert faults(template, "their.jinja", None) == []
    render = renderer(template, None)
    assert render(PROBE, None) == "Question?Answer."
    with pytest.raises(ConfigError, match=STEPS):
        render([{"role": "user", "content": "go"}], None)
    assert render(PROBE, None) == "Question?Answer."  # each rendering has its own budget


@pytest.mark.parametrize("text", ["(" * 5000 + ")" * 5000, "9" * 5000, "{% if 1 %}" * 200 + "{% endif %}" * 200])
def test_what_python_cannot_compile_is_told(text: str) -> None:
    template = text if text.startswith("{%") else f"{{{{ {text} }}}}"
    [problem] = faults(template, "their.jinja", None)
    assert "damaged" in problem.what or "cannot be compiled" in problem.what


@pytest.mark.parametrize(
    "template",
    [
        "{% set n = namespace(__class__=1) %}", "{% set n = namespace() %}{% set n._Namespace__attrs = 1 %}",
        "{{ dict.__base__.x }}", "{{ dict.mro() }}", "{{ namespace.mro() }}",
    ],
)  # fmt: skip
def test_no_template_gets_at_the_attributes_of_python(template: str) -> None:
    with pytest.raises(TemplateRejection):
        renderer(template, None)(PROBE, None)


LONG: list[dict[str, Any]] = [
    *({"role": role, "content": "a word\n" * 20} for _ in range(125) for role in ("user", "assistant")),
    {"role": "user", "content": "x" * (1 << 20)},
    {"role": "assistant", "content": "y" * (1 << 20)},
]
"""Some hundreds of turns, and two of a MiB."""


@pytest.mark.parametrize("name", sorted({*TEMPLATES} - {*READS_PARTS}))
def test_real_templates_stay_far_below_the_limits(name: str) -> None:
    environment = BoundedEnvironment()
    compiled = environment.from_string(TEMPLATES[name])
    environment.budget = Budget()
    try:
        compiled.render(
            messages=LONG, tools=None, documents=None, add_generation_prompt=False, bos_token="", eos_token=""
        )
    except TemplateError:  # a template without system turns, or with a rule of its own
        return
    assert environment.budget.steps < template_sandbox.MAX_STEPS / 10
    assert environment.budget.values < template_sandbox.MAX_VALUES / 10
    assert environment.budget.characters < template_sandbox.MAX_CHARACTERS / 2


def test_size_counts_what_is_reached_twice_twice_and_stops_at_the_limit() -> None:
    inner = ["ab", {"c": 1}]
    assert size([inner, inner]) == (11, 6)
    doubled: Any = [1]
    for _ in range(60):
        doubled = [doubled, doubled]
    values, _ = size(doubled, 1000)
    assert 1000 < values < 1100


def test_a_naive_sandbox_makes_all_that_it_is_told() -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    naive = ImmutableSandboxedEnvironment()
    assert len(naive.from_string("{{ 'x' * 10 ** 6 }}").render()) == 10**6
    loops = "{% set n = namespace(i=0) %}{% for a in range(99) %}{% for b in range(99) %}{% set n.i = n.i + 1 %}"
    assert naive.from_string(loops + "{% endfor %}{% endfor %}{{ n.i }}").render() == str(99 * 99)
    escaped = naive.from_string("{% set n = namespace(__class__=1) %}reached").render()
    assert escaped == "reached"  # the name that leads to Python's own attributes
