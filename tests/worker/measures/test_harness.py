"""lm-evaluation-harness measures a model as it is served, and a task file can do nothing that was not granted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.core.errors import ConfigError
from ftcli.evaluations.task_list import named_tasks
from ftcli.settings.groups import ModelSettings
from ftcli.settings.ownership import TASK_CODE
from ftcli.worker.models.answer_ends import answering
from ftcli.worker.models.load import make_encoder

pytest.importorskip("lm_eval", reason="pip install 'ftcli[eval]'")

from ftcli.worker.commands.tasks import evaluate
from ftcli.worker.measures.harness import Served
from ftcli.worker.measures.subjects import MEASURED, Subject

HEAD = "task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: rows.jsonl}}}}\ntest_split: test\n"
ANSWER = """output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
PICK = """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [red, yellow, green, blue]
doc_to_target: "{{['red', 'yellow', 'green', 'blue'].index(answer)}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def folder(here: Path) -> Path:
    rows = [json.loads(line)["messages"] for line in Path(tiny.set_path("sft", "eval")).read_text().splitlines()]
    colours = [row for row in rows if row[-1]["content"] in ("red", "yellow", "green", "blue")]
    assert colours
    lines = [json.dumps({"question": row[0]["content"], "answer": row[-1]["content"]}) for row in colours]
    (here / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return here


def measured(folder: Path, text: str, *, code: bool = False, model: str = "builtin:tiny", **more: Any) -> Any:
    (folder / "task.yaml").write_text(HEAD.format(name="colours") + text, encoding="utf-8")
    tasks = named_tasks("task.yaml", (), frozenset({TASK_CODE} if code else ()))
    return evaluate({"model": model, "tasks": [each.as_data() for each in tasks], "task_code": code, **more})


@pytest.mark.parametrize("text", [ANSWER, PICK])
def test_a_model_is_measured_through_its_chat_template_with_an_interval(text, folder):
    found = measured(folder, text)
    [line] = found["lines"]
    assert found["template"] is True
    assert line["higher_is_better"] is True
    assert 0 <= line["measured"]["low"] <= line["measured"]["value"] <= line["measured"]["high"] <= 1
    assert line["measured"]["rows"] == len((folder / "rows.jsonl").read_text().splitlines())
    assert measured(folder, text)["lines"] == [line]


def test_prompts_and_ends_are_those_of_serving(folder):
    settings = ModelSettings(name_or_path="builtin:tiny")
    encoder = make_encoder(settings)
    served = Served(Subject(MEASURED, answering(settings, encoder), encoder), 2)
    turns = [{"role": "user", "content": "What colour does the pear have?"}]
    text = served.apply_chat_template(turns)
    assert served.tok_encode(text) == encoder.prompt_ids(turns)
    assert served.tok_batch_encode([text])[0][0].tolist() == encoder.prompt_ids(turns)
    # The template writes a space before each answer, so a choice is scored with it.
    [row] = encoder.encode([_taught(turns, "green")])
    taught = [label for label in row.columns["labels"] if label != -100]
    context, choice = served._encode_pair(text, "green")
    assert (context + choice)[: len(encoder.prompt_ids(turns)) + 1] == row.columns["input_ids"][: len(context + choice)]
    assert taught[0] in choice
    end = next(iter(encoder.stop_ids))
    assert served.tok_decode([*taught[:-1], end, *taught]) == served.tok_decode(taught[:-1])


def _taught(turns: list[dict[str, str]], answer: str) -> Any:
    from ftcli.data.scan import Example

    return Example("", "messages", {"messages": [*turns, {"role": "assistant", "content": answer}]})


def test_templates_of_a_task_are_rendered_in_a_sandbox(folder):
    hostile = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ConfigError, match="SecurityError"):
        measured(folder, ANSWER.replace("{{question}}", hostile))


def test_a_function_runs_where_it_was_granted(folder):
    (folder / "mine.py").write_text("def docs(rows):\n    return rows.select([0, 1])\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=TASK_CODE):
        measured(folder, ANSWER + "process_docs: !function mine.docs\n")
    [line] = measured(folder, ANSWER + "process_docs: !function mine.docs\n", code=True)["lines"]
    assert line["measured"]["rows"] == 2
    with pytest.raises(ConfigError, match=r"mine\.nothing"):
        measured(folder, ANSWER + "process_docs: !function mine.nothing\n", code=True)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (ANSWER.replace("exact_match", "exactly"), "exactly is no metric"),
        (ANSWER + "doc_to_txt: a\n", "doc_to_txt is no key of a task"),
        (ANSWER.replace("{{question}}", "{{quest}}"), "quest"),
    ],
)
def test_a_task_that_is_wrong_is_refused_before_or_where_it_fails(text, what, folder):
    with pytest.raises(ConfigError, match=what):
        measured(folder, text)


def test_a_task_without_rows_is_told_as_such(folder):
    (folder / "rows.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="it has no rows"):
        measured(folder, ANSWER)


def test_a_task_that_nobody_has_is_named_with_the_nearest(folder, monkeypatch):
    from lm_eval.tasks import TaskManager

    from ftcli.worker.measures import harness_tasks

    # All fourteen thousand tasks take ten seconds to read; a handful say as much.
    monkeypatch.setattr(
        harness_tasks, "TaskManager", lambda: TaskManager(include_path=str(folder), include_defaults=False)
    )
    (folder / "task.yaml").write_text(HEAD.format(name="colours") + ANSWER, encoding="utf-8")
    tasks = [each.as_data() for each in named_tasks("colour", (), frozenset())]
    with pytest.raises(ConfigError, match="did you mean colours"):
        evaluate({"model": "builtin:tiny", "tasks": tasks})
    (folder / "offline").mkdir()
    (folder / "rows.jsonl").rename(folder / "offline" / "test.jsonl")
    offline = [each.as_data() for each in named_tasks("colours", ["colours=offline"], frozenset())]
    (folder / "task.yaml").write_text(
        HEAD.format(name="colours").replace("json\n", "org/none\n") + PICK, encoding="utf-8"
    )
    [line] = evaluate({"model": "builtin:tiny", "tasks": offline, "rows": 2})["lines"]
    assert line["measured"]["rows"] == 2
