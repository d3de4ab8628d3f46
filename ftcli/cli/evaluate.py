"""`ftcli eval RUN|MODEL`: what a run learned, before and after training: held-out loss and the method's own metric.

With --measure or --tasks a run, or a model without one, is measured on rows of a file, or on tasks of
lm-evaluation-harness.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftcli.build import gate
from ftcli.cli import arguments, output
from ftcli.cli.eval_actions.requests import answered, file_of
from ftcli.cli.generate import check_model
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.evaluations.measures import ABOUT
from ftcli.launch.worker_request import WorkerFailed
from ftcli.methods import get_method
from ftcli.methods.method import rows_to_score
from ftcli.models import sources
from ftcli.runs import provenance, rundir
from ftcli.settings.ownership import ALLOW_PATH, ENDPOINT, REWARD_CODE, TASK_CODE

NAME = "eval"
SUMMARY = "held-out loss, score and tasks of a run before and after training, or of a model"
ORDER = 70


def run(argv: Sequence[str]) -> int:
    """Measure a finished run, or a model, in the way that the options ask for."""
    options = arguments.parse(_parser(), argv)
    for flag, number, least in (
        ("--rows", options.rows, 1),
        ("--score-rows", options.score_rows, 0),
        ("--shots", options.shots, 0),
        ("--batch-size", options.batch_size, 1),
        ("--max-new-tokens", options.max_new_tokens, 1),
    ):
        if number is not None and number < least:
            raise ConfigError(Problem(f"{flag} {number}", "is out of range", f"at least {least}"))
    _require_effect(options)
    try:
        return _way(options)(options)
    except WorkerFailed as failed:
        return failed.code


def _way(options: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """The way of measuring that the options ask for; only its own modules are loaded."""
    if options.tasks is not None:
        from ftcli.cli.eval_actions import on_tasks

        return on_tasks.run
    if options.measure is not None:
        from ftcli.cli.eval_actions import on_rows

        return on_rows.run
    if options.against is not None:
        from ftcli.cli.eval_actions import against

        return against.run
    return _on_held_out


def _parser() -> arguments.Parser:
    parser = arguments.parser("eval", __doc__ or "")
    parser.add_argument("run", metavar="RUN|MODEL", help="a run directory, or a run's name (its newest)")
    parser.add_argument("--data", help="held-out rows, like data.eval_path (default: the run's own)")
    parser.add_argument("--rows", type=int, help="maximum number of rows, of each task")
    parser.add_argument(
        "--score-rows",
        type=int,
        help="how many of them are scored, which generates their answers; 0 measures the loss alone (default: the "
        "run's run.score_rows if it was set, else --rows or 256)",
    )
    parser.add_argument(
        "--model", help="evaluate this model with the run's metrics, instead of the run before and after training"
    )
    rows = parser.add_argument_group("measures on rows, of a run or a model")
    about = "; ".join(f"{name}: {what}" for name, what in ABOUT.items())
    rows.add_argument("--measure", metavar="LIST", help=f"with commas between, on the rows of --data. {about}")
    rows.add_argument("--reward-model", metavar="MODEL", help="a run of method=reward, for --measure reward")
    rows.add_argument("--batch-size", type=int, help="rows that are measured together, also of tasks")
    judged = parser.add_argument_group("against another run or model, on the prompts of --data")
    judged.add_argument("--against", metavar="RUN|MODEL", help="compare the greedy answers of both, in both orders")
    judged.add_argument("--judge", metavar="MODEL", help="who compares: a run, a model, or a name at --judge-url")
    judged.add_argument("--judge-url", metavar="URL", help="an endpoint of OpenAI's form, which is sent the answers")
    judged.add_argument("--judge-key-env", metavar="NAME", help="the variable with its key (OPENAI_API_KEY)")
    judged.add_argument("--principles", metavar="FILE", help="what it compares by (default: usefulness)")
    judged.add_argument("--max-new-tokens", type=int, help="longest answer that is compared (default: 256)")
    tasks = parser.add_argument_group("tasks of lm-evaluation-harness (pip install 'ftcli[eval]')")
    tasks.add_argument("--tasks", metavar="LIST", help="names and files, with commas between: gsm8k,ifeval,my.yaml")
    tasks.add_argument(
        "--task-data",
        action="append",
        default=[],
        metavar="TASK=FOLDER",
        help="the folder with a task's rows, where no hub is asked for them",
    )
    tasks.add_argument("--shots", type=int, help="examples in each prompt (default: the task's own)")
    tasks.add_argument(TASK_CODE, action="store_true", help="run Python code that a task names or a model writes")
    arguments.add_trust(parser, REWARD_CODE, ENDPOINT, ALLOW_PATH)
    arguments.add_json(parser)
    return parser


_HELD_OUT = "without --tasks, --measure and --against"
_TASKS, _MEASURE, _AGAINST = "with --tasks", "with --measure", "with --against"
_READ_BY: Mapping[str, tuple[str, ...]] = {
    "--data": (_HELD_OUT, _MEASURE, _AGAINST),
    "--score-rows": (_HELD_OUT,),
    "--model": (_HELD_OUT,),
    REWARD_CODE: (_HELD_OUT,),
    ENDPOINT: (_HELD_OUT,),
    "--reward-model": (_MEASURE,),
    "--batch-size": (_MEASURE, _TASKS, _AGAINST),
    "--judge": (_AGAINST,),
    "--judge-url": (_AGAINST,),
    "--judge-key-env": (_AGAINST,),
    "--principles": (_AGAINST,),
    "--max-new-tokens": (_AGAINST,),
    "--task-data": (_TASKS,),
    "--shots": (_TASKS,),
    TASK_CODE: (_TASKS,),
    ALLOW_PATH: (_TASKS,),
}
"""The ways of measuring that read an option."""


def _require_effect(options: argparse.Namespace) -> None:
    """Refuse options of another way of measuring, which would do nothing.

    Raises:
        ConfigError: there is one, or two ways at once.
    """
    ways = {_TASKS: options.tasks, _MEASURE: options.measure, _AGAINST: options.against}
    asked = [way for way, value in ways.items() if value is not None]
    if len(asked) > 1:
        named = " and ".join(way.removeprefix("with ") for way in asked)
        raise ConfigError(Problem(named, "are evaluations of their own", "ask for them one by one"))
    how = asked[0] if asked else _HELD_OUT
    for flag, read_by in _READ_BY.items():
        if getattr(options, flag.strip("-").replace("-", "_")) not in (None, False, []) and how not in read_by:
            raise ConfigError(Problem(flag, f"has no effect {how}", "remove it"))


def _on_held_out(options: argparse.Namespace) -> int:
    """Evaluate a finished run on its own held-out rows, or on those of a file."""
    found = rundir.require_run(options.run, f"ftcli eval {shell_word(options.run)}")
    granted = ((REWARD_CODE, options.trust_reward_code), (ENDPOINT, options.allow_endpoint))
    spec = gate.opened(found, frozenset(flag for flag, given in granted if given), gate.MEASURES)
    method = get_method(str(spec.method["name"]))
    scored = rows_to_score(spec, method, options.score_rows, options.rows)
    data = None if options.data is None else file_of(options.data)
    asked = {"data": data, "score_rows": scored, "model": _model(options.model, method.head)}
    measured = answered("eval", options, run=str(found), **asked)
    if options.json:
        output.data({**measured, provenance.KEY: provenance.of_folder(found)})
    else:
        _print(measured)
        if not scored and options.score_rows is None and method.score != "none":
            output.note("not scored, since the run set run.score_rows=0; --score-rows N scores N rows")
    return EXIT_DONE


def _model(name: str | None, head: str) -> str | None:
    """The location of the model that --model names, which must have the head of the run's own.

    Raises:
        ConfigError: there is no such model, or it has the other head.
    """
    if name is None:
        return None
    check_model(name, f"--model {shell_word(name)}", head)
    source = sources.model_source(name)
    assert source is not None
    return source.location


def _print(measured: Mapping[str, Any]) -> None:
    columns = {name: measured[name] for name in ("before", "after", "measured") if name in measured}
    scores = [each.get("score") or {} for each in columns.values()]
    last = scores[-1]
    output.say(f"{measured['method']} on {measured['data']}, {measured['rows']} rows")
    rows = [("", *columns)]
    if any(each.get("eval_loss") is not None for each in columns.values()):
        rows.append(("held-out loss", *(_number(each.get("eval_loss"), ".4f") for each in columns.values())))
    for name in last.keys() - {"name", "rows", "value"}:
        rows.append((name, *(_number(each.get(name)) for each in scores)))
    if last:
        rows.append((f"{last['name']} ({last['rows']} rows)", *(_number(each.get("value")) for each in scores)))
    output.table(rows)


def _number(value: Any, form: str = ".3f") -> str:
    return f"{value:{form}}" if isinstance(value, float) else str(value)
