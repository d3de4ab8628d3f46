"""`ftcli train`: compose, check, plan, launch and report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ftcli.cli import arguments, jobs, output
from ftcli.cli.requirements import require_room
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE

if TYPE_CHECKING:
    from ftcli.cli.jobs.job import Job

SUMMARY = "train a model; --dry-run only plans, --resume RUN resumes, --from RUN reproduces"
ORDER = 10

DEMONSTRATION = (
    "a demonstration, since no model and no rows are named: method=sft of the built-in tiny model on its built-in rows",
    "  to train your own: ftcli train rows.jsonl model=qwen-0.6b peft=lora   (ftcli list model shows the models)",
)
"""The first lines of `ftcli train` with nothing; the choices are those of configs/config.yaml."""


def run(argv: Sequence[str]) -> int:
    """Train one job, or with -m several."""
    options = parse_options(argv)
    if options.multirun:
        from ftcli.cli.sweep import multirun

        return multirun(options)
    if options.cfg is not None:
        return _cfg(options)
    if options.info is not None:
        return _info(options)
    request, as_json = arguments.request(options), options.json
    if options.resume is not None:
        begun = jobs.resolve_folder(options.resume, f"--resume {options.resume}")
        with _progress():
            return begun.resume(request, dry_run=options.dry_run, as_json=as_json, anyway=options.anyway)
    if options.source is not None:
        job = jobs.measured(lambda: jobs.like(options.source, request))
    elif options.locked:
        job = _locked(request)
    else:
        if not request.overrides:
            for line in DEMONSTRATION:
                output.note(line)
        job = jobs.measured(lambda: jobs.resolve(request))
    if options.dry_run:
        job.plan(as_json=as_json)
        return EXIT_DONE
    if not options.anyway:
        require_room(job.runs())
    with _progress():
        return job.start(["train", *argv], as_json=as_json, anyway=options.anyway)


def _progress() -> AbstractContextManager[None]:
    """Draw how far the workers are, on a terminal."""
    from ftcli.cli.render.live_view import drawn  # only here: checks and plans draw nothing

    return drawn()


def _locked(request: Request) -> Job:
    """The job of a recipe that is held to its lock, packages included.

    Raises:
        ConfigError: names whatever differs.
    """
    from ftcli.cli.jobs import locked

    held = locked.job(request.overrides, request.grants, "ftcli train --locked")
    if held.other_packages:
        fix = "install that version, or compare within bounds: ftcli reproduce RECIPE"
        raise ConfigError(*(Problem("--locked", each, fix) for each in held.other_packages))
    return held.job


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """The overrides and flags of `ftcli train`; flags that exclude each other are refused."""
    parser = arguments.composing("train", __doc__ or "")
    parser.add_argument("--dry-run", action="store_true", help="check and plan, but start nothing")
    parser.add_argument("--anyway", action="store_true", help="start even where GPU or disk are too small for the plan")
    parser.add_argument("--resume", metavar="RUN", help="resume an interrupted run from its newest valid checkpoint")
    arguments.add_from(parser)
    parser.add_argument("--locked", action="store_true", help="only if nothing differs from the recipe's lock")
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="one job per combination of comma-separated values"
    )
    parser.add_argument(
        "--cfg", "-c", choices=("job", "hydra", "all"), help="print the composed configuration and stop"
    )
    parser.add_argument(
        "--info", "-i", nargs="?", const="all", help="print where the configuration comes from and stop"
    )
    parser.add_argument("--resolve", action="store_true", help="accepted with --cfg, which always resolves")
    options = arguments.parse(parser, argv)
    if options.info is not None and "=" in options.info:  # argparse took the next override for its value
        options.overrides.append(options.info)
    given = {
        "--resume": options.resume is not None,
        "--from": options.source is not None,
        "-m": options.multirun,
        "--locked": options.locked,
    }
    both = [flag for flag, there in given.items() if there]
    if len(both) > 1:
        raise ConfigError(Problem(" ".join(both), "exclude each other", "keep one of them"))
    return options


def _cfg(options: argparse.Namespace) -> int:
    if options.cfg != "job":
        what = "ftcli composes with Hydra but does not run under it, so there is no hydra node"
        raise ConfigError(Problem(f"--cfg {options.cfg}", what, "--cfg job prints the whole configuration of a run"))
    jobs.like(options.source, arguments.request(options)).show(as_json=options.json)
    return EXIT_DONE


def _info(options: argparse.Namespace) -> int:
    from ftcli.config.compose import compose
    from ftcli.core import assets

    composed = compose(arguments.request(options))
    output.say("folders searched for groups")
    output.table([(str(folder),) for folder in (*options.config_dir, assets.CONFIGS)])
    output.say("choices")
    output.table([(group, choice, composed.where(group) or "default") for group, choice in composed.choices.items()])
    written = [
        (".".join(path), origin.where)
        for path, origin in composed.origins.items()
        if origin.by != "group" and origin.where
    ]
    if written:
        output.say("set by recipe or command line")
        output.table(written)
    return EXIT_DONE
