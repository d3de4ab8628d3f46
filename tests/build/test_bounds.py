"""Bounds on what a recipe may start, and numbers that no float holds: an error with its place, never a traceback."""

from __future__ import annotations

import pytest

from ftcli.settings import limits
from tests.config.test_recipes import HEAD, write

HUGE = "1" + "0" * 390
BEYOND = "2" + "0" * 18


@pytest.mark.parametrize(
    ("setting", "most"),
    [
        ("hardware.num_processes", limits.MAX_PROCESSES),
        ("hardware.num_nodes", limits.MAX_NODES),
        ("hardware.num_threads", limits.MAX_THREADS),
        ("hardware.max_restarts", limits.MAX_TRIES),
        ("hardware.max_requeues", limits.MAX_TRIES),
        ("train.dataloader_num_workers", limits.MAX_WORKERS),
    ],
)
def test_processes_threads_workers_and_tries_are_bounded(problems, here, setting, most):
    group, _, key = setting.partition(".")
    write(f"{HEAD}{group}: {{{key}: {most + 1}}}\n")
    out_of_range = [problem for problem in problems("recipe=r.yaml") if f"{setting} must be at least" in problem]
    assert [problem for problem in out_of_range if problem.endswith(f"and at most {most}")]
    write(f"{HEAD}{group}: {{{key}: {most}}}\n")
    assert not any("out of range" in problem for problem in problems("recipe=r.yaml"))


@pytest.mark.parametrize(("setting", "most"), [("concurrency", limits.MAX_WORKERS), ("max_retries", limits.MAX_TRIES)])
def test_requests_to_an_endpoint_are_bounded(here, setting, most):
    from ftcli.config.compose import Request
    from ftcli.core.errors import ConfigError
    from ftcli.pipelines.pipeline_request import pipeline_request
    from ftcli.pipelines.stage_specs import pipeline_spec

    wanted = pipeline_request(Request(overrides=("method=rlaif", "judge=openai", f"judge.{setting}={most + 1}")))
    assert wanted is not None
    with pytest.raises(ConfigError, match=f"judge.{setting}={most + 1} is out of range"):
        pipeline_spec(wanted)


def test_so_are_those_of_a_judge_that_gives_rewards(problems, here):
    judge = f"{{type: openai, model: m, concurrency: {limits.MAX_WORKERS + 1}}}"
    write(f"ftcli: 1\ndefaults:\n  - method: grpo\nmethod: {{judge: {judge}}}\n")
    found = problems("recipe=r.yaml", grants=frozenset({"--allow-endpoint"}))
    assert any(f"method.judge.concurrency={limits.MAX_WORKERS + 1} is out of range" in problem for problem in found)


@pytest.mark.parametrize("number", [HUGE, "-" + HUGE, BEYOND, "1e300", "1e400", ".inf", "-.inf", ".nan"])
@pytest.mark.parametrize(
    "setting",
    ["seed", "train.max_steps", "train.learning_rate", "train.num_train_epochs", "train.warmup_steps", "data.max_rows",
     "data.max_length_tokens", "data.near_duplicates", "hardware.time_limit", "hardware.stop_seconds",
     "run.score_rows", "peft.r", "peft.lora_alpha", "train.per_device_train_batch_size"],
)  # fmt: skip
def test_a_number_beyond_a_float_is_refused_wherever_it_stands(problems, here, setting, number):
    group, _, key = setting.partition(".")
    lora = "  - peft: lora\n"
    write(f"{HEAD}{lora}{f'{group}: {{{key}: {number}}}' if key else f'{group}: {number}'}\n")
    found = problems("recipe=r.yaml")
    said = ("not a finite number", "no setting takes a number above 1e+18", "which is not", "out of range")
    assert [problem for problem in found if any(words in problem for words in said)]
    assert all(problem.startswith("r.yaml:5") for problem in found)


def test_such_a_number_is_found_inside_mappings_and_on_the_command_line(problems, here):
    write(f"{HEAD}train: {{lr_scheduler_kwargs: {{a: [{HUGE}]}}}}\n")
    assert any("no setting takes a number above 1e+18" in problem for problem in problems("recipe=r.yaml"))
    for word in (f"train.max_steps={HUGE}", "train.learning_rate=1e400", "seed=inf"):
        assert len(problems(word)) == 1


@pytest.mark.parametrize(
    "body",
    ["data: {path: null}", "data: {path: []}", "data: {path: [null]}", "data: {path: {a: 1}}", "data: {path: ''}",
     "data: {mix: {a: null}}", "data: {mix: {a: {path: null}}}", "data: {mix: []}", "data: {mix: {}}",
     "data: {mix: {a: {}}}", "data: {eval_path: []}", "model: {name_or_path: null}", "data: {columns: {prompt: null}}"],
)  # fmt: skip
def test_what_is_missing_is_a_problem_with_its_line(problems, here, body):
    write(f"{HEAD}{body}\n")
    found = problems("recipe=r.yaml")
    assert found
    assert all(problem.startswith("r.yaml:4") for problem in found)


def test_a_place_of_rows_that_is_null_is_told_on_the_command_line_too(problems, here):
    [found] = problems("data.path=null")
    assert found.startswith("data.path=null  data.path is null, so the run has no rows")


def test_brackets_of_any_depth_on_the_command_line_are_told(problems, here):
    [found] = problems("method.x=" + "[" * 900 + "]" * 900)
    assert "cannot be read" in found
