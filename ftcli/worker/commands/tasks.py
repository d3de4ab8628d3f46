"""`tasks`: what a run reaches on tasks of lm-evaluation-harness before and after training, or a model by itself."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from ftcli.worker.measures.harness import run_tasks, table
from ftcli.worker.measures.harness_tasks import load_tasks
from ftcli.worker.measures.subjects import measured
from ftcli.worker.process.command import one_answer


def evaluate(request: dict[str, Any]) -> dict[str, Any]:
    """Measure on tasks.

    Args:
        request: as for `measured`, `load_tasks` and `run_tasks`.

    Returns:
        {"template": whether prompts went through the chat template, "lm_eval": its version, "lines": as `table`}.

    Raises:
        ConfigError: a model or a task that cannot be used.
    """
    tasks = load_tasks(request)  # before the model: rows that are not there are found in seconds
    templates: list[bool] = []

    def on_tasks(subject: Any) -> Any:
        templates.append(subject.encoder.has_template)
        return run_tasks(subject, tasks, request)

    columns = measured(request, on_tasks)
    return {"template": templates[0], "lm_eval": version("lm-eval"), "lines": table(columns)}


COMMAND = one_answer(evaluate, "measuring on tasks")
