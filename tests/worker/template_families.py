"""What each chat template that TRL ships makes of rows of every shape: right, or refused with the reason.

`python -m tests.worker.template_families` writes benchmarks/results/template_families.json, from which the table of
docs/models.md is generated. A test measures again and compares.
"""

from __future__ import annotations

import json
import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ftcli.core.errors import DataError
from ftcli.data.scan import Example
from ftcli.models.export.ollama_template import go_template_of
from ftcli.worker.tokenise.encoder import Encoder
from tests.conftest import REPOSITORY
from tests.worker.served import (
    TEMPLATES,
    Turns,
    ends_of,
    needs_parts,
    outside_marks,
    plain_ids,
    rendered,
    shipped,
    wanted,
)
from tools.result_tables import TEMPLATE_USES

RESULT = REPOSITORY / "benchmarks" / "results" / "template_families.json"
PARTS = "contents are lists of parts, of which text alone writes nothing"
_REASONS = (
    (r"leaves out the reasoning", "the template writes no reasoning there"),
    (r"leaves out the called function|leaves out an argument", "the template writes no calls"),
    (r"already ends it", "the generation prompt ends the reasoning"),
    (r"chat template refuses the row: (.*)", "the template refuses it: {}"),
    (r"would not be trained as it is served", "the template writes it as no continuation of what is served"),
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string", "description": "where"}}},
    },
}


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def called(**more: Any) -> Turns:
    """A call, its result, and the answer."""
    call = {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": {"at": "tree"}}}
    result = said("tool", "green", name="look", tool_call_id="call00001")
    return [said("assistant", "", tool_calls=[call], **more), result, said("assistant", "A leaf.")]


def shapes() -> dict[str, tuple[Turns, Any]]:
    """A row for each column of the table, with its tools."""
    thought: dict[str, Any] = {"reasoning_content": "It grows."}
    tree, sun = said("user", "Tree?"), said("user", "Sun?")
    return {
        "single turn": ([tree, said("assistant", "Leaf.")], None),
        "system": ([said("system", "Be brief."), tree, said("assistant", "Leaf.")], None),
        "multi-turn": ([tree, said("assistant", "Leaf."), sun, said("assistant", "Moon.")], None),
        "tools": ([tree, *called()], [_TOOL]),
        "reasoning": ([tree, said("assistant", "Leaf.", **thought), sun, said("assistant", "Moon.", **thought)], None),
        "reasoning as <think>": ([tree, said("assistant", "<think>\nIt grows.\n</think>\n\nLeaf.")], None),
        "tools and reasoning": ([tree, *called(**thought)], [_TOOL]),
    }


def verdict(name: str, turns: Turns, tools: Any, encoder: Encoder | None = None) -> str:
    """`right`, `right, unrolled`, or `refused: ` and the reason.

    Raises:
        AssertionError: what is trained is not what is served.
    """
    encoder = encoder or shipped(name)
    example = Example("a row", "messages", {"messages": turns, **({"tools": tools} if tools else {})})
    try:
        [found] = encoder.encode([example])
    except DataError as error:
        return f"refused: {reason(str(error))}"
    if "reasoning_content" not in json.dumps(turns) and "<think>" in json.dumps(turns):
        return as_reasoning(name, found, encoder)
    expected = wanted(encoder, ends_of(name), turns, tools)
    assert not isinstance(expected, str), (name, expected)
    examples = [*found.earlier, found.columns]
    assert len(examples) == len(expected.examples), name
    for own, each in zip(examples, expected.examples, strict=True):
        outside = outside_marks(encoder, each.turns, tools, each.text) if each.as_written else []
        labels = [-100 if at in outside else label for at, label in enumerate(each.labels)]
        assert (own["input_ids"], own["labels"]) == (each.ids, labels), name
    return "right, unrolled" if found.earlier else "right"


def as_reasoning(name: str, found: Any, encoder: Any) -> str:
    """Whether reasoning written into the text is trained as the same reasoning under its own key is, or as text."""
    turns = [said("user", "Tree?"), said("assistant", "Leaf.", reasoning_content="It grows.")]
    if not encoder.serving.structure.marker:
        trained = encoder.tokenizer.decode([label for label in found.columns["labels"] if label != -100])
        assert trained.strip().startswith("<think>\nIt grows.\n</think>\n\nLeaf."), name
        return "right, as text"
    [keyed] = encoder.encode([Example("a row", "messages", {"messages": turns})])
    assert (keyed.columns, keyed.earlier) == (found.columns, []), name
    return "right"


def reason(message: str) -> str:
    """The kind of a refusal."""
    for pattern, words in _REASONS:
        if match := re.search(pattern, message):
            return words.format(*match.groups()).replace("\n", " ").strip()
    raise AssertionError(message)


def modelfile(name: str, encoder: Encoder) -> str:
    """The family of Ollama's templates that writes what the template writes."""
    with tempfile.TemporaryDirectory() as folder:
        encoder.tokenizer.save_pretrained(folder)
        found = go_template_of(Path(folder), ends_of(name))
    return found.family if found is not None else "none"


def measured() -> dict[str, Any]:
    """The whole result."""
    from tests.worker.inference.test_final_answers import hits, rows, trained

    found: dict[str, dict[str, str]] = {}
    for name in TEMPLATES:
        if needs_parts(name):
            found[name] = dict.fromkeys((*shapes(), "RL prompt", "perfect stub", *TEMPLATE_USES), f"refused: {PARTS}")
            continue
        encoder = shipped(name)
        cells = {column: verdict(name, turns, tools) for column, (turns, tools) in shapes().items()}
        prompt = shapes()["system" if cells["system"].startswith("right") else "single turn"][0][:-1]
        row = encoder.encode([Example("a row", "prompt", {"prompt": prompt})])[0].columns
        assert row["prompt_ids"] == plain_ids(encoder, rendered(encoder, prompt, None, True)), name
        known = {tuple(prompt): answer for prompt, answer in (trained(encoder, turns) for turns in rows(name))}
        right, of = hits(encoder, name, known)
        used = dict(zip(TEMPLATE_USES, (encoder.serving.marks, modelfile(name, encoder)), strict=True))
        found[name] = {**cells, "RL prompt": "right", "perfect stub": f"{right:g} of {of}", **used}
    return {"versions": {each: version(each) for each in ("trl", "transformers")}, "templates": found}


if __name__ == "__main__":
    RESULT.write_text(json.dumps(measured(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
