"""Renders chat templates in the front half, in Jinja's immutable sandbox and with what transformers gives them.

The worker renders with transformers itself, which takes seconds to import; tests compare the two over every template.
A template comes from strangers: in the sandbox (`template_sandbox`) it reaches neither attributes of Python objects nor
modules, and it ends.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.suggest import suggest
from ftcli.core.untrusted.processor_time import OutOfTime, limited
from ftcli.models.templates.answer_forms import REASONING
from ftcli.models.templates.chat_template import special_tokens, without_defaults

GIVEN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
    | {"bos_token", "eos_token", "pad_token", "unk_token", "namespace", "dict", "range", "cycler", "joiner", "lipsum"}
)
"""Variables that a template gets in any case, or that Jinja has: no setting may change them."""
PROBE = ({"role": "user", "content": "Question?"}, {"role": "assistant", "content": "Answer."})
"""A conversation that every chat template renders."""
RENDER_SECONDS = 30
"""Processor time of one rendering, beside the counts of what it does. A thousand turns take some hundredths of a
second, and seconds where a template looks back at each."""
_TOKEN = re.compile(r"<[|｜][^<>|｜\s]+[|｜]?>|<(?:start|end)_of_\w+>")
_TEMPLATE = "<template>"
_STAND_INS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
"""What a tokenizer that is not on this machine may have."""

Render = Callable[..., str]
"""(messages, tools, *, opened, variables) → text; raises TemplateRejection."""


class TemplateRejection(ValueError):
    """The template rejected a conversation."""


def _joined(messages: Sequence[Mapping[str, Any]], tools: Any, **_: Any) -> str:
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in messages)


def renderer(template: str | None, folder: Path | None, where: str = "") -> Render:
    """A function that renders conversations: by the template, with the special tokens in `folder`, else joined.

    Args:
        where: the template's file, or the setting that names it, for errors.

    Raises:
        ConfigError: the template does not compile; from the function: one rendering takes more than it may.
    """
    if template is None:
        return _joined
    from jinja2 import TemplateError

    from ftcli.models.templates.template_sandbox import Budget, TemplateOverrun

    where = where or str(folder or "model.chat_template")
    compiled = _compiled(template, where)
    special = special_tokens(folder) if folder is not None else _STAND_INS

    def render(
        messages: Sequence[Mapping[str, Any]], tools: Any, *, opened: bool = False, variables: Any = None
    ) -> str:
        given = {**special, **(variables or {}), "messages": list(map(_with_reasoning, messages)), "tools": tools}
        compiled.environment.budget = Budget()
        try:
            with limited(RENDER_SECONDS):
                return str(compiled.render(**given, documents=None, add_generation_prompt=opened))
        except (TemplateOverrun, OutOfTime, MemoryError) as error:
            why = str(error) or f"takes more than {RENDER_SECONDS} s of processor time to render a conversation"
            at = _place(template, where, error)
            raise ConfigError(Problem(at, f"the chat template {why}", "choose another template")) from None
        except RecursionError as error:
            raise TemplateRejection("its macros or loops call themselves without end") from error
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise TemplateRejection(str(error)) from error

    return render


def _with_reasoning(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """The turn with its reasoning under each name that templates read."""
    found = next((turn[name] for name in REASONING if turn.get(name) is not None), None)
    return turn if found is None else {"thinking": found, **turn, "reasoning_content": found}


def _compiled(template: str, where: str) -> Any:
    """The template, compiled in the sandbox.

    Raises:
        ConfigError: a mistake in it, with its line.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

    from ftcli.models.templates.template_sandbox import BoundedEnvironment, TemplateOverrun

    try:
        with limited(RENDER_SECONDS):
            return BoundedEnvironment().from_string(template)
    except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError, TemplateOverrun, OutOfTime) as error:
        # Python's own limits: blocks or brackets nested too deeply, a number of thousands of digits.
        what = f"the chat template cannot be compiled ({type(error).__name__})"
        raise ConfigError(Problem(f"{where}:1", what, "choose another template")) from None
    except TemplateError as error:
        line = error.lineno - _added_lines(template) if isinstance(error, TemplateSyntaxError) else 1
        fix = "correct the template"
        raise ConfigError(Problem(f"{where}:{line}", f"the chat template is damaged: {error}", fix)) from None


def _place(template: str, where: str, error: BaseException | None) -> str:
    """The template's name with the line in it that raised an error, as far as that is known."""
    steps = traceback.extract_tb(error.__traceback__ if error else None)
    lines = [step.lineno for step in steps if step.filename == _TEMPLATE and step.lineno]
    return f"{where}:{lines[-1] - _added_lines(template)}" if lines else where


def _added_lines(template: str) -> int:
    """How many lines precede the template's own first line."""
    return template.count("\n") - without_defaults(template)[0].count("\n")


# --- what a check asks of a template ----------------------------------------------------------------------------------


def variables(template: str) -> frozenset[str]:
    """The variables that a template reads beside those that it gets in any case.

    Raises:
        ConfigError: the template does not compile.
    """
    from jinja2 import meta

    from ftcli.models.templates.template_sandbox import BoundedEnvironment

    bare, _ = without_defaults(template)
    _compiled(bare, "model.chat_template")
    return frozenset(meta.find_undeclared_variables(BoundedEnvironment().parse(bare))) - GIVEN


def unread_variables(values: Mapping[str, Any], read: Collection[str], where: str) -> Iterator[Problem]:
    """A problem for each value of a variable that no template may set, or that this one does not read."""
    for name in values:
        if name in GIVEN or not name.isidentifier():
            yield Problem(f"{where}.{name}", f"{name} is no variable that can be set", "remove it")
        elif name not in read:
            fix = suggest(name, sorted(read), f"{where}.") if read else "remove it"
            yield Problem(f"{where}.{name}", f"{name} has no effect: the chat template does not read it", fix)


def faults(template: str, where: str, folder: Path | None) -> list[Problem]:
    """The problem of a template that does not compile, or does not render a question and its answer; with its line.

    Args:
        where: its file, or the setting that names it.
    """
    try:
        _compiled(template, where)
        render = renderer(template, folder, where)
        texts = [render(PROBE, None), render(PROBE[:1], None, opened=True)]
    except ConfigError as error:
        return list(error.problems)
    except TemplateRejection as rejection:
        place = _place(template, where, rejection.__cause__)
        what = f"the chat template does not render a question and its answer: {rejection}"
        return [Problem(place, what, "correct the template, or choose another one")]
    if not all(turn["content"] in text for turn in PROBE[:1] for text in texts) or PROBE[1]["content"] not in texts[0]:
        what = "the chat template writes nothing of a turn whose content is text"
        return [Problem(where, what, "use a template for text: some read lists of text and image parts only")]
    return []


def control_tokens(template: str, folder: Path | None) -> list[str]:
    """What a template writes around a question and its answer in the form of special tokens, in order.

    Raises:
        TemplateRejection: it does not render them.
    """
    text = renderer(template, folder)(PROBE, None)
    return list(dict.fromkeys(_TOKEN.findall(text)))


def closing_token(text: str, tokens: Iterable[str]) -> str | None:
    """The token with which the rendered PROBE closes its answer; None where it has none.

    Args:
        tokens: those of the tokenizer that are no ordinary text.
    """
    _, found, after = text.rpartition(PROBE[1]["content"])
    pattern = "|".join(map(re.escape, sorted(filter(None, tokens), key=len, reverse=True)))
    closing = re.search(pattern, after) if found and pattern else None
    return closing.group() if closing else None
