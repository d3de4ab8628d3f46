"""`ftcli train`: compose, check, plan, launch, and say what came of it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ftcli.build.resolve import spec_of
from ftcli.cli import arguments, output, pipeline
from ftcli.config.overrides import expand, parse
from ftcli.core import hardware
from ftcli.core.errors import EXIT_CONFIG, EXIT_DATA, EXIT_DONE, EXIT_INTERRUPTED, ConfigError, Problem
from ftcli.methods.method import further_models
from ftcli.models import sources
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec

SUMMARY = "train a model; --dry-run plans only, --resume RUN goes on, --from RUN reproduces"
ORDER = 10


def run(argv: Sequence[str]) -> int:
    """Train once, or once a job under -m."""
    options = parse_options(argv)
    if options.multirun:
        return _sweep(options)
    if options.cfg is not None:
        return _cfg(options)
    if options.info is not None:
        return _info(options)
    if (code := pipeline.train(options, argv)) is not None:
        return code
    if options.resume is not None:
        return _resume(options, argv)
    if options.source is not None:
        from ftcli.build.resume import spec_from

        spec = spec_from(rundir.require_run(options.source, f"--from {options.source}"), arguments.request(options))
    else:
        spec = spec_of(arguments.request(options))
    return _start(spec, options, argv)


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """The overrides and flags of `ftcli train`; those that exclude each other are refused."""
    parser = arguments.composing("train", __doc__ or "")
    parser.add_argument("--dry-run", action="store_true", help="plan and check, but start nothing")
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with an interrupted run from its newest valid checkpoint"
    )
    parser.add_argument(
        "--from", dest="source", metavar="RUN", help="a new run like RUN, with overrides over its configuration"
    )
    parser.add_argument("-m", "--multirun", action="store_true", help="one job a combination of comma-separated values")
    parser.add_argument(
        "--cfg", "-c", choices=("job", "hydra", "all"), help="print the composed configuration and stop"
    )
    parser.add_argument(
        "--info", "-i", nargs="?", const="all", help="print where the configuration comes from and stop"
    )
    parser.add_argument("--resolve", action="store_true", help="accepted beside --cfg, which always resolves")
    options = arguments.parse(parser, argv)
    if options.info is not None and "=" in options.info:  # argparse took the next override for its value
        options.overrides.append(options.info)
    both = [
        flag
        for flag, given in (("--resume", options.resume), ("--from", options.source), ("-m", options.multirun or None))
        if given is not None
    ]
    if len(both) > 1:
        raise ConfigError(Problem(" ".join(both), "exclude each other", "keep one of them"))
    return options


def _cfg(options: argparse.Namespace) -> int:
    from ftcli.cli.show import configuration

    if options.cfg != "job":
        what = "ftcli composes with Hydra but does not run under it, so there is no hydra node"
        raise ConfigError(Problem(f"--cfg {options.cfg}", what, "--cfg job prints everything a run is made of"))
    if not pipeline.show(options):
        configuration(spec_of(arguments.request(options)), as_json=options.json)
    return EXIT_DONE


def _info(options: argparse.Namespace) -> int:
    from ftcli.config.compose import compose
    from ftcli.core import assets

    composed = compose(arguments.request(options))
    print("searched for groups")
    output.table([(str(folder),) for folder in (*options.config_dir, assets.CONFIGS)])
    print("choices")
    output.table([(group, choice, composed.where(group) or "default") for group, choice in composed.choices.items()])
    written = [
        (".".join(path), origin.where)
        for path, origin in composed.origins.items()
        if origin.by != "group" and origin.where
    ]
    if written:
        print("set by recipe or command line")
        output.table(written)
    return EXIT_DONE


def _sweep(options: argparse.Namespace) -> int:
    """Each job is a process of its own: a failing one ends none of the others."""
    jobs, flags = expand(options.overrides), []
    for folder in options.config_dir:
        flags += ["--config-dir", str(folder)]
    flags += [flag for flag in arguments.GRANTS if getattr(options, flag.strip("-").replace("-", "_"))]
    flags += [flag for flag, given in (("--dry-run", options.dry_run), ("--json", options.json)) if given]
    codes = []
    for number, job in enumerate(jobs):
        words = [f"run.dir={parse(word).value}/{number}" if word.startswith("run.dir=") else word for word in job]
        output.note(f"job {number + 1} of {len(jobs)}: {' '.join(words)}")
        codes.append(subprocess.run([sys.executable, "-m", "ftcli", "train", *words, *flags], check=False).returncode)
        if codes[-1] in (EXIT_INTERRUPTED, 130):
            break
    output.note(
        f"{codes.count(0)} of {len(jobs)} jobs done"
        + "".join(f"\n  job {i + 1}: exit {c}" for i, c in enumerate(codes) if c)
    )
    return next((code for code in codes if code), EXIT_DONE)


def require_here(spec: RunSpec) -> None:
    """What planning does not need but training does: the GPU asked for, and the model's files."""
    if spec.launch.device == "cuda" and not hardware.gpus():
        fix = "use hardware=cpu or hardware=auto; ftcli doctor shows what is here"
        raise ConfigError(
            Problem(f"hardware={spec.choices['hardware']}", "this machine has no GPU that NVML can see", fix)
        )
    if spec.launch.device == "cuda" and spec.launch.num_processes > len(hardware.gpus()):
        what = f"{spec.launch.num_processes} processes for {len(hardware.gpus())} GPUs"
        raise ConfigError(Problem("hardware.num_processes", what, f"use at most {len(hardware.gpus())}"))
    require_model(spec)


def require_model(spec: RunSpec) -> None:
    """Make sure that the files of a run's models are here, or can be had from the hub.

    Raises:
        ConfigError: they cannot, with the remedy.
    """
    require_folders(spec)
    require_hub(spec.model.name_or_path, spec.model.revision, "model.name_or_path")
    for key, name, _ in further_models(spec.method):
        require_hub(name, None, f"method.{key}")
    if judge := spec.method.get("judge"):
        from ftcli.settings.backends import BackendSettings
        from ftcli.synthesis.backend import require_backend

        require_backend(BackendSettings(**judge), "method.judge")


def require_folders(spec: RunSpec) -> None:
    """Make sure that the models which a run names by a folder are there still; asks no network.

    Raises:
        ConfigError: one is not.
    """
    named = {"model.name_or_path": spec.model.name_or_path}
    named |= {f"method.{key}": name for key, name, _ in further_models(spec.method)}
    for key, name in named.items():
        source = sources.model_source(name)
        if source is None or sources.foundation(source) is None:
            below = "" if source is None else ", as the base model of its adapter is not here"
            fix = "put it back where it was, or name a finished run, a model folder or a hub id"
            raise ConfigError(Problem(f"{key}={name}", f"{name} holds no model{below}", fix))


def require_hub(name: str, revision: str | None, key: str) -> None:
    """Make sure that the files of one model are here, or can be had.

    Raises:
        ConfigError: they cannot, with the remedy.
    """
    source = sources.model_source(name)
    bottom = sources.foundation(source) if source else None
    if bottom is not None and bottom.hub_id is not None:
        from ftcli.models.availability import require

        require(bottom.hub_id, revision, f"{key}={bottom.hub_id}")


def _start(spec: RunSpec, options: argparse.Namespace, argv: Sequence[str]) -> int:
    if options.dry_run:
        from ftcli.cli.plan import show
        from ftcli.plan.outlook import plan
        from ftcli.plan.resolved_run import ResolvedRun

        show(spec, plan(ResolvedRun.of(spec)), as_json=options.json)
        return EXIT_DONE
    require_here(spec)
    from ftcli.launch.local import prepare

    try:
        directory = prepare(spec, ["train", *argv])
    except OSError as error:
        what = f"cannot be made a run directory: {error.strerror}"
        raise ConfigError(Problem(f"run.dir={spec.run.dir}", what, "choose another run.dir")) from None
    _announce(spec, directory)
    return _finish(spec, directory, None, options.json)


def _announce(spec: RunSpec, directory: Path) -> None:
    output.note(f"run {directory}")
    for item in spec.notes:
        if item.key.startswith(("train.", "data.", "model.", "hardware.type")):
            output.note(f"  {item.key} = {item.value}  ({item.why})")


def _resume(options: argparse.Namespace, argv: Sequence[str]) -> int:
    from ftcli.build.resume import resumed_spec
    from ftcli.launch.local import newest_checkpoint

    directory = rundir.require_run(options.resume, f"--resume {options.resume}")
    spec = resumed_spec(directory, options.overrides, arguments.request(options).grants)
    (require_folders if options.dry_run else require_here)(spec)
    if rundir.read_result(directory) is not None and not options.overrides:
        output.note(f"{directory} is finished; to train further give train.max_steps or train.num_train_epochs")
        return _report(directory, options.json)
    rundir.require_free(directory)
    checkpoint = newest_checkpoint(directory, spec, output.note)
    if options.dry_run:
        return _show_resumed(spec, directory, checkpoint, as_json=options.json)
    output.note(
        f"going on with {directory} from "
        + (checkpoint.name if checkpoint else "the start: no checkpoint was written yet")
    )
    before = (directory / rundir.SPEC).read_text(encoding="utf-8")
    rundir.write_atomically(directory / rundir.SPEC, spec.to_json())
    code = _finish(spec, directory, checkpoint, options.json)
    if code in (EXIT_CONFIG, EXIT_DATA) and (directory / rundir.RESULT).is_file():
        rundir.write_atomically(directory / rundir.SPEC, before)  # refused before it trained: finished as it was
    return code


def _show_resumed(spec: RunSpec, directory: Path, checkpoint: Path | None, *, as_json: bool) -> int:
    """The plan of a run that would go on, and from where."""
    from ftcli.cli.plan import as_data, left, resumed, show
    from ftcli.plan.outlook import plan
    from ftcli.plan.resolved_run import ResolvedRun

    outlook = plan(ResolvedRun.of(spec))
    if as_json:
        output.data({**as_data(spec, outlook), "resume": {"run": str(directory), **left(outlook, checkpoint)}})
    else:
        print(f"{directory} {resumed(outlook, checkpoint)}")
        show(spec, outlook, as_json=False)
    return EXIT_DONE


def _finish(spec: RunSpec, directory: Path, checkpoint: Path | None, as_json: bool) -> int:
    from ftcli.launch.local import run_worker

    code = run_worker(directory, spec.launch, checkpoint, output.note)
    return _report(directory, as_json) if code == EXIT_DONE else code


def _report(directory: Path, as_json: bool) -> int:
    from ftcli.cli.report import next_commands, summary

    result = rundir.read_result(directory)
    assert result is not None  # the worker writes it before it answers 0
    if as_json:
        output.data(result)
        return EXIT_DONE
    summary(directory, result)
    print("next")
    for command in next_commands(directory):
        print(f"  {command}")
    return EXIT_DONE
