"""The tasks that a request names, built by lm-evaluation-harness, with their rows.

Templates of a task are rendered in Jinja's sandbox, and functions only imported where that was granted, since a task
file may come from anyone.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval import utils as harness_utils
from lm_eval.api import metrics as _registers_metrics  # noqa: F401
from lm_eval.api.registry import metric_registry
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.config.task import TaskConfig
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import _import_func_in_yml

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.hub_cache import offline
from ftcli.core.suggest import suggest
from ftcli.settings.ownership import TASK_CODE
from ftcli.worker.process.activity import phase


def load_tasks(request: Mapping[str, Any]) -> dict[str, Task]:
    """The requested tasks with their rows, by name.

    Args:
        request: {"tasks": as Task.as_data, "task_code": whether they may run code}.

    Raises:
        ConfigError: there is none of that name, its file asks for what lm-evaluation-harness does not have, or its
            rows cannot be read.
    """
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)
    _sandbox()
    wanted, granted = request["tasks"], bool(request.get("task_code"))
    own = {each["name"]: each for each in wanted if each["config"] is not None}
    named = [each for each in wanted if each["config"] is None]
    found: dict[str, Task] = {}
    with phase("reading the tasks"):
        manager = TaskManager() if named else None
        for each in named:
            assert manager is not None
            found |= _built_in(manager, each, granted)
        for name, each in own.items():
            config = _with_functions(each) if granted else dict(each["config"])
            _require_known(name, config)
            found[name] = _built(f"--tasks {name}", each, lambda config=config: ConfigurableTask(config=config))
    return found


def _sandbox() -> None:
    """Render the templates of tasks in a sandbox: out of one, a template reaches every module of this process."""
    if not isinstance(harness_utils.env, ImmutableSandboxedEnvironment):
        plain = harness_utils.env
        harness_utils.env = ImmutableSandboxedEnvironment(
            loader=plain.loader, undefined=StrictUndefined, keep_trailing_newline=True
        )
        harness_utils.env.filters.update(plain.filters)


def _built_in(manager: TaskManager, each: Mapping[str, Any], granted: bool) -> dict[str, Task]:
    name = str(each["name"])
    entry = manager.task_index.get(name)
    if entry is None:
        fix = suggest(name, manager.all_tasks, "")
        raise ConfigError(Problem(f"--tasks {name}", "is no task of lm-evaluation-harness", fix))
    if not granted and (unsafe := _writes_code(manager, name)):
        what = f"{unsafe} runs the code that the model writes, on this machine"
        raise ConfigError(Problem(f"--tasks {name}", what, f"allow it with {TASK_CODE}, in a container"))
    over = _in_folder(str(each["data"])) if each["data"] else None

    def build() -> Any:
        return manager.load([name]) if over is None else _over(manager, name, over)

    tasks: dict[str, Task] = _built(f"--tasks {name}", each, build)["tasks"]
    return tasks


def _writes_code(manager: TaskManager, name: str) -> str | None:
    """The first task among those of a name whose answers are run as programs."""
    entry = manager.task_index.get(name)
    config = (entry.cfg if entry is not None else None) or {}
    if config.get("unsafe_code"):
        return name
    if entry is None or entry.kind.name not in ("GROUP", "TAG"):  # a task lists its tags, which are no members
        return None
    listed = config.get("task")
    members: list[Any] = listed if isinstance(listed, list) else sorted(entry.tags)
    named = (each.get("task") or each.get("group") if isinstance(each, dict) else each for each in members)
    below = (_writes_code(manager, each) for each in named if isinstance(each, str) and each != name)
    return next(filter(None, below), None)


def _in_folder(folder: str) -> dict[str, Any]:
    """Where a task's rows are instead; a folder as the hub has it keeps the names of its parts."""
    own = {} if (Path(folder) / "README.md").is_file() else {"dataset_name": None}
    return {"dataset_path": folder, "dataset_kwargs": None, **own}


def _over(manager: TaskManager, name: str, over: dict[str, Any]) -> dict[str, Any]:
    """A task, or the tasks of a group or tag, with their rows in another folder."""
    built = manager._factory.build(manager.task_index[name], overrides=over, registry=manager.task_index)
    each = built if isinstance(built, list) else [built]
    return dict(manager.load(each))


def _built(where: str, each: Mapping[str, Any], build: Any) -> Any:
    """What a function builds, with its faults as those of a task: its rows are read here."""
    try:
        return build()
    except ConfigError:
        raise
    except ImportError as error:
        what = f"needs the package {error.name}, which is not installed"
        raise ConfigError(Problem(where, what, f"pip install {error.name}")) from None
    except (OSError, ConnectionError) as error:  # the hub's own errors among them
        why = f"its rows cannot be read: {first_line(error)}"
        closed = f"; {offline()} forbids the network" if offline() else ""
        raise ConfigError(Problem(where, why + closed, _rows_fix(each))) from None
    except KeyError as error:
        raise ConfigError(Problem(where, f"its rows have no {error}", _rows_fix(each))) from None
    except StopIteration:  # of who looks at the first
        raise ConfigError(Problem(where, "it has no rows", _rows_fix(each))) from None
    except Exception as error:  # a task file may be wrong in any way that its reader did not expect
        raise ConfigError(Problem(where, f"cannot be built: {first_line(error)}", _rows_fix(each))) from None


def _rows_fix(each: Mapping[str, Any]) -> str:
    return "mend the file, or its rows" if each["config"] else f"--task-data {each['name']}=FOLDER names its rows here"


def first_line(error: Exception) -> str:
    """What an error of the harness says, on one line."""
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _with_functions(each: Mapping[str, Any]) -> dict[str, Any]:
    """A task's file with its functions imported, which was granted.

    Raises:
        ConfigError: there is no such function.
    """
    config: dict[str, Any] = each["config"]
    for function in each["functions"]:
        *above, last = function["path"]
        place: Any = config
        for key in above:
            place = place[int(key)] if isinstance(place, list) else place[key]
        try:
            made = _import_func_in_yml(function["name"], Path(function["folder"]))
        except Exception as error:  # code of the user's own
            where = f"--tasks {each['name']}"
            raise ConfigError(Problem(where, f"{function['name']}: {first_line(error)}", "mend it")) from None
        place[int(last) if isinstance(place, list) else last] = made
    return config


def _require_known(name: str, config: Mapping[str, Any]) -> None:
    """Refuse keys and metrics that lm-evaluation-harness does not have: for the latter it would ask the hub for code.

    Raises:
        ConfigError: there is one.
    """
    fields = {each.name for each in dataclasses.fields(TaskConfig)} | {"class"}
    for key in config.keys() - fields:
        raise ConfigError(Problem(f"--tasks {name}", f"{key} is no key of a task", suggest(key, fields, "")))
    for each in config.get("metric_list") or ():
        metric = each.get("metric")
        elsewhere = config.get("process_results") or each.get("hf_evaluate")
        if isinstance(metric, str) and metric not in metric_registry and not elsewhere:
            fix = suggest(metric, list(metric_registry.keys()), "")
            raise ConfigError(Problem(f"--tasks {name}", f"{metric} is no metric", fix))
