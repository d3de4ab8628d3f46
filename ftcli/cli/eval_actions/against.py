"""`ftcli eval RUN|MODEL --against RUN|MODEL --judge MODEL`: whose answers are better, by a judge in both orders."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftcli.cli.eval_actions.on_rows import named, rows_of
from ftcli.cli.eval_actions.requests import answered
from ftcli.cli.eval_actions.subject import finish, measured
from ftcli.cli.generate import check_model
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.models import sources
from ftcli.runs import rundir
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis import principles
from ftcli.synthesis.backend import require_backend

MAX_NEW_TOKENS = 256


def run(options: argparse.Namespace) -> int:
    """Compare a run or model with another.

    Raises:
        ConfigError: an option does not fit, or the other is the same model.
    """
    command = f"ftcli eval {shell_word(options.run)} --against"
    judge = _judge(options)
    if options.principles is not None:
        _require_comparable(options.principles)
    subject = measured(options.run, command, frozenset())
    other = measured(options.against, f"--against {shell_word(options.against)}", frozenset())
    if sources.model_source(subject.name) == sources.model_source(other.name):
        what = "is what is measured itself: each of its answers would be compared with the same one"
        raise ConfigError(Problem(f"--against {shell_word(options.against)}", what, "name another run or model"))
    data = rows_of(options.data, subject, "--against")
    longest = options.max_new_tokens or MAX_NEW_TOKENS
    asked = {"data": data, "judge": asdict(judge), "principles": options.principles, "max_new_tokens": longest}
    found = answered("judged", options, model=subject.name, against=other.name, **asked)
    counts = ", ".join(f"{number} {name}" for name, number in found["counts"].items() if number or name != "unreadable")
    opponent = rundir.shown_name(other.run) if other.run is not None else other.name
    swayed = found["first_shown_wins"]
    order = "" if swayed is None else f"; the answer shown first won {swayed:.0%} of the verdicts"
    title = f"against {opponent} on {named(data)}, judged by {options.judge}: {counts}{order}"
    line: dict[str, Any] = {"name": "win rate, a tie as half", "higher_is_better": True}
    lines = [{**line, "measured": found.pop("estimate")}]
    finish(subject, "judged", {"title": title, "lines": lines, "data": data, **found}, as_json=options.json)
    return EXIT_DONE


def _judge(options: argparse.Namespace) -> BackendSettings:
    """Who judges: a model here, or one at an endpoint that was typed.

    Raises:
        ConfigError: nobody is named, or it is not available.
    """
    if options.judge is None:
        fix = "--judge MODEL, or --judge NAME --judge-url URL for one at an endpoint"
        raise ConfigError(Problem("--against", "needs a judge", fix))
    if options.judge_url is not None:
        key = options.judge_key_env or BackendSettings.api_key_env
        settings = BackendSettings(type="openai", model=options.judge, base_url=options.judge_url, api_key_env=key)
        if not options.judge_url.startswith(("http://", "https://")):
            fix = "--judge-url http://localhost:8000/v1"
            raise ConfigError(Problem(f"--judge-url {options.judge_url}", "is no address", fix))
        require_backend(settings, "--judge")
        return settings
    if options.judge_key_env is not None:
        raise ConfigError(Problem("--judge-key-env", "has no effect without --judge-url", "remove it"))
    check_model(options.judge, f"--judge {shell_word(options.judge)}")
    source = sources.model_source(options.judge)
    name = options.judge if source is None or source.folder is None else str(source.folder)
    return BackendSettings(type="local", model=name)


def _require_comparable(file: str) -> None:
    """Check the principles of --principles.

    Raises:
        ConfigError: they cannot be read, or none compares two answers.
    """
    if not Path(file).is_file():
        raise ConfigError(Problem(f"--principles {file}", "is no file", "name a YAML file with principles"))
    if not all(each.compare for each in principles.read(Path(file))):
        what, fix = "a principle has no `compare`", 'compare: "… {prompt} … {first} … {second} … Say A or B."'
        raise ConfigError(Problem(f"--principles {file}", what, fix))
