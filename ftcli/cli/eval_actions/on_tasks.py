"""`ftcli eval RUN|MODEL --tasks LIST`: tasks of lm-evaluation-harness, and files of one's own."""

from __future__ import annotations

import argparse

from ftcli.cli.eval_actions.requests import answered
from ftcli.cli.eval_actions.subject import finish, measured
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.evaluations.task_list import named_tasks, require_harness
from ftcli.settings.ownership import ALLOW_PATH, TASK_CODE


def run(options: argparse.Namespace) -> int:
    """Measure a run before and after training, or a model, on tasks."""
    require_harness()
    given = ((TASK_CODE, options.trust_task_code), (ALLOW_PATH, options.allow_path))
    grants = frozenset(flag for flag, granted in given if granted)
    tasks = named_tasks(options.tasks, options.task_data, grants)
    subject = measured(options.run, f"ftcli eval {shell_word(options.run)} --tasks", grants)
    asked = {"tasks": [task.as_data() for task in tasks], "shots": options.shots, "task_code": options.trust_task_code}
    found = answered("tasks", options, model=subject.name, **asked)
    prompts = "through the chat template" if found["template"] else "as plain text, since it has no chat template"
    title = f"{', '.join(task.name for task in tasks)} by lm-evaluation-harness {found['lm_eval']}, {prompts}"
    settings = {"limit": options.rows, "shots": options.shots}
    finish(subject, "tasks", {"title": title, **found, **settings}, as_json=options.json)
    return EXIT_DONE
