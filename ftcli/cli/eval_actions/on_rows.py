"""`ftcli eval RUN|MODEL --measure LIST --data FILE`: perplexity, right answers, preferences, reward."""

from __future__ import annotations

import argparse
import os

from ftcli.cli.eval_actions.requests import answered, file_of
from ftcli.cli.eval_actions.subject import Measured, finish, measured
from ftcli.cli.generate import check_model
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.evaluations.measures import named_measures


def run(options: argparse.Namespace) -> int:
    """Measure a run before and after training, or a model, on rows."""
    names, kinds = named_measures(options.measure, options.reward_model)
    command = f"ftcli eval {shell_word(options.run)} --measure"
    subject = measured(options.run, command, frozenset())
    data = rows_of(options.data, subject, "--measure")
    if options.reward_model is not None:
        check_model(options.reward_model, f"--reward-model {shell_word(options.reward_model)}", "reward_model")
    asked = {"data": data, "kinds": kinds, "measures": names, "reward_model": options.reward_model}
    found = answered("measures", options, model=subject.name, **asked)
    title = f"{', '.join(names)} on {named(data)}, {found['rows']} rows"
    finish(subject, "measures", {"title": title, **found, "data": data}, as_json=options.json)
    return EXIT_DONE


def named(data: str | None) -> str:
    """What rows are called."""
    return os.path.basename(data.rstrip("/")) if data is not None else "held-out rows"


def rows_of(given: str | None, subject: Measured, flag: str) -> str | None:
    """The place of the rows; None for those that the run held out.

    Raises:
        ConfigError: there is no run, and no file was given; or it is not there.
    """
    if given is None:
        if subject.spec is None:
            raise ConfigError(Problem(flag, "needs rows", "--data FILE"))
        return None
    return file_of(given)
