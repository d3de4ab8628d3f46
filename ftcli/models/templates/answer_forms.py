"""Answer forms: what a model must write after the prompt that it is served, for one chat template.

A generation prompt may open the reasoning (`<think>`), or open and close it. How the template itself writes the turn is
then not what the model writes: it goes on inside the reasoning, also where the template leaves the reasoning out (R1)
or writes an empty one in another form (Nemotron).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from ftcli.core.errors import DataError

Turns = list[dict[str, Any]]

REASONING = ("reasoning_content", "thinking", "reasoning")
"""The keys of a turn's reasoning; of several with a value the first counts."""
_OPENED = re.compile(r"<(\w+)>\s*\Z")
_CLOSED = re.compile(r"</(\w+)>\s*\Z")
_INLINE = re.compile(r"\s*<(think|thinking|reasoning)>(.*?)</\1>\s*", re.DOTALL)


class Forms:
    """What the generation prompts of a chat template open or close, and how it takes reasoning and calls; found out by
    rendering probes."""

    def __init__(self, render: Callable[[Turns, Any, bool], str], stops: Sequence[str]) -> None:
        """
        Args:
            render: turns, tools and whether the generation prompt follows → text; raises DataError.
            stops: the end tokens.
        """
        self._render, self._stops = render, stops
        self._endings: dict[bool, str] = {}

    def opened(self, prompt: str, tools: Any) -> str:
        """The reasoning tag that the generation prompt opens at the end of `prompt`, with white space; else ""."""
        return self._ending(prompt, tools, _OPENED)

    def closed(self, prompt: str, tools: Any) -> str:
        """The tag with which the generation prompt closes the reasoning, likewise."""
        return self._ending(prompt, tools, _CLOSED)

    def _ending(self, prompt: str, tools: Any, form: re.Pattern[str]) -> str:
        # Only what the template itself writes counts: a question may end in a tag too.
        own = self.generation_prompt(tools)
        found = form.search(own) if own and prompt.endswith(own) else None
        return found.group() if found else ""

    def adapted(self, turns: Turns) -> Turns:
        """The turns in the form in which the template takes them.

        Reasoning that an answer's text begins with becomes `reasoning_content` where the template writes only that as
        reasoning, and the tags as text. Calls get their arguments as JSON text where it wants them so.
        """
        return [self._adapted(turn) if turn["role"] == "assistant" else turn for turn in turns]

    def _adapted(self, turn: dict[str, Any]) -> dict[str, Any]:
        content = turn.get("content") or ""
        inline = _INLINE.match(content) if isinstance(content, str) and content.lstrip().startswith("<") else None
        if inline and not any(turn.get(key) for key in REASONING) and self._lifts:
            turn = {**turn, "content": content[inline.end() :], "reasoning_content": inline[2].strip()}
        if turn.get("tool_calls") and self._calls_as_text:
            turn = _with_text(turn)
        return turn

    def next_end(self, turn: Mapping[str, Any], tools: Any) -> str:
        """The end token with which the template begins the turn that follows an answer or a call; "" for none."""
        calls = turn.get("tool_calls")
        following = {"role": "tool", "name": "?", "tool_call_id": "?"} if calls else {"role": "user"}
        answer = {"role": "assistant", "content": "", "tool_calls": calls} if calls else {"role": "assistant"}
        # A plain text: reasoning in the turn's own may be rewritten once another turn follows.
        turns = [{"role": "user", "content": "?"}, answer if calls else {**answer, "content": "zq7"}]
        try:
            text, longer = (self._render(t, tools, False) for t in (turns, [*turns, {**following, "content": "?"}]))
        except DataError:  # the template takes no such turn there
            return ""
        begun = longer[len(text) :] if longer.startswith(text) else ""
        return next((stop for stop in self._stops if begun.startswith(stop)), "")

    @cached_property
    def ends_answers(self) -> bool:
        """Whether the template closes a plain answer with an end token."""
        text = self._probed({"role": "assistant", "content": "zq7"})
        return any(stop in text.rpartition("zq7")[2] for stop in self._stops)

    @cached_property
    def after_answer(self) -> str:
        """What the template writes after a plain answer where a question follows; "" if that cannot be told."""
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "zq7"}]
        try:
            longer = self._render([*turns, {"role": "user", "content": "?"}], None, False)
        except DataError:
            return ""
        return longer.rpartition("zq7")[2].lstrip()

    @cached_property
    def _lifts(self) -> bool:
        """Whether reasoning is written as such only if it has a key of its own."""
        keyed = self._probed({"role": "assistant", "content": "zq7", "reasoning_content": "zq8"})
        inline = self._probed({"role": "assistant", "content": "<think>\nzq8\n</think>\n\nzq7"})
        return "zq8" in keyed and keyed != inline and inline.replace("<think>\n", "", 1) != inline

    @cached_property
    def _calls_as_text(self) -> bool:
        """Whether the template takes a call's arguments only as JSON text."""
        call = {"type": "function", "id": "zq9000000", "function": {"name": "zq7", "arguments": {"zq8": "zq9"}}}
        turn = {"role": "assistant", "content": "", "tool_calls": [call]}

        def written(form: dict[str, Any]) -> bool:
            text = self._probed(form)
            return "zq7" in text and "zq8" in text

        return not written(turn) and written(_with_text(turn))

    def _probed(self, turn: dict[str, Any]) -> str:
        try:
            return self._render([{"role": "user", "content": "?"}, turn], None, False)
        except DataError:
            return ""

    def generation_prompt(self, tools: Any) -> str:
        """What the template adds where the model is to answer a question; "" if that cannot be told."""
        kind = bool(tools)
        if kind not in self._endings:
            turns = [{"role": "user", "content": "?"}]
            try:
                before, whole = self._render(turns, tools, False), self._render(turns, tools, True)
            except DataError:
                before, whole = "", ""
            self._endings[kind] = whole[len(before) :] if whole.startswith(before) else ""
        return self._endings[kind]


def continuation(prompt: str, text: str, opened: str, turn: Mapping[str, Any]) -> str | None:
    """What the model must write after the prompt; None if the template writes the turn as no continuation of it.

    Args:
        text: the conversation up to this turn, as the template writes it.
        opened: the reasoning tag that the prompt opens at its end, with its white space, or "".
    """
    if text.startswith(prompt):
        return text[len(prompt) :]
    header = prompt.removesuffix(opened)
    if not opened or not text.startswith(header):
        return None
    written, tag = text[len(header) :], opened.strip()
    if written.startswith(tag):
        return written.removeprefix(tag)
    reasoning = reasoning_of(turn)
    return f"{reasoning}\n</{tag[1:-1]}>\n\n{written.lstrip() if reasoning else written}"


def _with_text(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn with its calls' arguments as JSON text."""
    calls = [{**call, "function": _texted(call.get("function") or {})} for call in turn["tool_calls"]]
    return {**turn, "tool_calls": calls}


def _texted(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**function, "arguments": text}


def reasoning_of(turn: Mapping[str, Any]) -> str:
    """The reasoning of a turn, from its own key or from the tag that its text begins with; "" for none."""
    for key in REASONING:
        if isinstance(turn.get(key), str) and turn[key].strip():
            return str(turn[key]).strip()
    inline = _INLINE.match(turn.get("content") or "")
    return inline[2].strip() if inline else ""


def has_reasoning(turn: Mapping[str, Any]) -> bool:
    """Whether a turn has reasoning, in whatever form."""
    return bool(reasoning_of(turn))


def without_reasoning(turns: Turns) -> Turns:
    """The turns, of the assistant's without their reasoning."""
    return [_bare(turn) if turn["role"] == "assistant" else turn for turn in turns]


def _bare(turn: dict[str, Any]) -> dict[str, Any]:
    bare = {key: value for key, value in turn.items() if key not in REASONING}
    if isinstance(bare.get("content"), str):
        bare["content"] = (
            _INLINE.sub("", bare["content"], count=1) if _INLINE.match(bare["content"]) else bare["content"]
        )
    return bare
