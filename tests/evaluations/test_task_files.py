"""A task file is a stranger's: data, and only what the command line grants."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftcli.core.errors import ConfigError
from ftcli.evaluations.task_files import Function, read_task
from ftcli.evaluations.task_list import named_tasks
from ftcli.settings.ownership import ALLOW_PATH, TASK_CODE

NOTHING: frozenset[str] = frozenset()
PLAIN = "task: colours\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n"


@pytest.fixture
def folder(here: Path) -> Path:
    """A folder with rows, and more rows beside it."""
    inside = here / "tasks"
    inside.mkdir()
    for place in (inside, here):
        (place / "rows.jsonl").write_text('{"question": "?", "answer": "!"}\n', encoding="utf-8")
    return inside


def written(folder: Path, text: str, name: str = "task.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def problem(folder: Path, text: str, grants: frozenset[str] = NOTHING) -> str:
    with pytest.raises(ConfigError) as raised:
        read_task(written(folder, text), grants)
    return str(raised.value)


def test_rows_are_those_beside_the_file_wherever_the_command_runs(folder):
    task = read_task(written(folder, PLAIN), NOTHING)
    assert task.name == "colours"
    assert task.config["dataset_kwargs"] == {"data_files": {"test": str(folder / "rows.jsonl")}}


@pytest.mark.parametrize(
    "where", ["../rows.jsonl", "/etc/passwd", "~/.netrc", "link.jsonl", "[rows.jsonl, ../rows.jsonl]"]
)
def test_rows_outside_its_folder_need_a_grant(where, folder):
    os.symlink("../rows.jsonl", folder / "link.jsonl")
    text = PLAIN.replace("{test: rows.jsonl}", where)
    said = problem(folder, text)
    assert "task.yaml:3" in said
    assert ALLOW_PATH in said


def test_a_grant_lets_it_read_other_folders(folder):
    task = read_task(written(folder, PLAIN.replace("rows.jsonl", "../rows.jsonl")), frozenset({ALLOW_PATH}))
    assert task.config["dataset_kwargs"]["data_files"] == {"test": str(folder.parent / "rows.jsonl")}


@pytest.mark.parametrize("address", ["https://example.com/rows.jsonl", "zip://a.jsonl::file:///x.zip", "s3://b/rows"])
def test_it_is_sent_to_no_address(address, folder):
    assert "the address" in problem(folder, PLAIN.replace("rows.jsonl", f'"{address}"'), frozenset({ALLOW_PATH}))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("process_docs: !function evil.main", "process_docs runs the Python function evil.main"),
        ("metric_list: [{metric: !function os.system}]", "metric_list.0.metric runs the Python function os.system"),
        ("custom_dataset: !function evil.rows", "custom_dataset runs the Python function evil.rows"),
        ("class: !function evil.Task", "class runs the Python function evil.Task"),
        ("unsafe_code: true", "unsafe_code runs what the model writes"),
        ("metric_list: [{metric: bleu, hf_evaluate: true}]", "hf_evaluate loads a metric as code from the hub"),
        ("use_prompt: promptsource:*", "use_prompt loads a prompt as code"),
    ],
)
def test_code_needs_a_grant(line, what, folder):
    said = problem(folder, f"{PLAIN}{line}\n")
    assert what in said
    assert "task.yaml:4" in said
    assert TASK_CODE in said
    assert read_task(folder / "task.yaml", frozenset({TASK_CODE})).name == "colours"


def test_a_function_is_known_by_its_place_and_no_text_can_stand_for_one(folder):
    text = f'{PLAIN}process_docs: !function mine.docs\ndoc_to_text: "!function evil.main"\n'
    task = read_task(written(folder, text), frozenset({TASK_CODE}))
    assert task.functions == (Function(("process_docs",), "mine.docs", str(folder)),)
    assert task.config["doc_to_text"] == "!function evil.main"


def test_other_tags_are_refused_whatever_is_granted(folder):
    everything = frozenset({TASK_CODE, ALLOW_PATH})
    assert "YAML tag" in problem(folder, f"{PLAIN}x: !!python/object/apply:os.system [ls]\n", everything)
    assert "YAML tag" in problem(folder, f"{PLAIN}x: !function [a, b]\n", everything)


def test_includes_lie_beside_it_and_bring_their_functions(folder):
    written(folder, "output_type: multiple_choice\ndoc_to_text: !function mine.text\nrepeats: 2\n", "base.yaml")
    said = problem(folder, f"include: base.yaml\n{PLAIN}")
    assert "doc_to_text runs the Python function mine.text" in said
    task = read_task(written(folder, f'include: base.yaml\n{PLAIN}doc_to_text: "{{{{question}}}}"\n'), NOTHING)
    assert (task.config["output_type"], task.config["repeats"], task.functions) == ("multiple_choice", 2, ())
    written(folder.parent, "repeats: 3\n", "outside.yaml")
    assert ALLOW_PATH in problem(folder, f"include: ../outside.yaml\n{PLAIN}")
    assert "includes more than" in problem(folder, f"include: task.yaml\n{PLAIN}")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("group: many\ntask: [a, b]\n", "is a group of tasks"),
        ("dataset_path: json\n", "names no task"),
        ("task: ../x\n", "which is no name"),
        ("task: a\ndataset_path: json\n", "names no files"),
        ("task: a\ndataset_path: ./nowhere\n", "does not exist"),
        ("task: a\ndataset_path: 'x y'\n", "neither a folder nor a hub id"),
        ("task: a\ndataset_path: json\ndataset_kwargs: {data_file: rows.jsonl}\n", "data_file is not read here"),
        ("task: a\ndataset_path: json\ndataset_kwargs: {storage_options: {key: x}}\n", "storage_options is not read"),
        ("task: a\nmetric_list: exact_match\n", "no list of mappings"),
    ],
)
def test_what_is_no_task_is_said_with_its_line(text, what, folder):
    said = problem(folder, text)
    assert what in said
    assert "task.yaml:" in said


def test_a_list_names_tasks_and_files_and_folders_for_their_rows(folder):
    written(folder, PLAIN)
    tasks = named_tasks("gsm8k, tasks/task.yaml", ["colours=tasks", "gsm8k=tasks"], NOTHING)
    assert [(task.name, task.data) for task in tasks] == [("gsm8k", str(folder)), ("colours", str(folder))]
    assert tasks[0].config is None
    assert tasks[1].config["dataset_path"] == str(folder)


@pytest.mark.parametrize(
    ("text", "folders", "what"),
    [
        (",", [], "names no task"),
        ("nothing.yaml", [], "cannot be read"),
        ("a b", [], "neither a file nor the name of a task"),
        ("gsm8k,gsm8k", [], "named twice"),
        ("gsm8k", ["ifeval=tasks"], "ifeval is not among --tasks"),
        ("gsm8k", ["gsm8k=nowhere"], "is no folder"),
        ("gsm8k", ["tasks"], "names no task"),
    ],
)
def test_a_list_that_is_wrong_is_refused(text, folders, what, folder):
    with pytest.raises(ConfigError, match=what):
        named_tasks(text, folders, NOTHING)
