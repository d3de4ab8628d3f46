"""A single run: as a request, and as a directory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.build.resolve import build
from ftcli.cli import output
from ftcli.cli.jobs.job import Job, JobFolder
from ftcli.cli.render import configuration
from ftcli.cli.requirements import require_disk, require_folders, require_here, require_named, require_rows
from ftcli.config.compose import Composed, Request
from ftcli.core.exit_codes import EXIT_DONE, EXIT_GATE, EXIT_MEMORY
from ftcli.core.plugins import plugin_loading
from ftcli.launch.nodes import OWN
from ftcli.launch.profile import submits
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import provenance, resume_line, rundir
from ftcli.settings.run_spec import RunSpec

if TYPE_CHECKING:
    from ftcli.cli.jobs.submission import Asked
    from ftcli.launch.nodes import Node
    from ftcli.reports.run_record import RunRecord


@dataclass(frozen=True)
class RunJob(Job):
    """A requested run."""

    run: ResolvedRun

    @property
    def spec(self) -> RunSpec:
        """Its spec."""
        return self.run.spec

    def specs(self) -> Sequence[RunSpec]:
        """Its one spec."""
        return (self.spec,)

    def runs(self) -> Sequence[ResolvedRun]:
        """Itself."""
        return (self.run,)

    def runs_by_stage(self) -> Mapping[str, RunSpec]:
        """Its one spec."""
        return {"": self.spec}

    def unnamed(self) -> Mapping[str, str]:
        """Those of its run."""
        return self.run.unnamed

    def flags(self) -> set[str]:
        """Those of its spec."""
        from ftcli.build import gate

        return {*gate.flags_needed(self.spec)}

    @classmethod
    def checked(cls, composed: Composed) -> RunJob:
        """The run of a composed tree.

        Raises:
            ConfigError: all problems found.
        """
        return cls(build(composed))

    def check(self, *, as_json: bool) -> None:
        """Print that there are no problems, the choices, and what the first rows hold that is not read."""
        from ftcli.data.row_sets import every_set, located
        from ftcli.data.scan import unread_columns

        configuration.checked(self.spec, as_json=as_json)
        configuration.still_to_be_named(self.run.unnamed)
        for each in every_set(self.spec.data, self.run.method):
            for lost in unread_columns(located(each, each.key, fetch=False) or (), each.settings, self.run.method):
                output.warn(lost)

    def plan(self, *, as_json: bool, alone: bool = True) -> None:
        """Print steps, tokens, parameters, memory, warnings, and every derived value."""
        from ftcli.cli.render.plan import show
        from ftcli.plan.outlook import plan

        show(self.run, plan(self.run), as_json=as_json)
        if alone and not as_json and (asked := self.asked()):
            from ftcli.cli.jobs.submission import show_script

            show_script(asked, Path(str(self.spec.run.dir)))

    def asked(self) -> Asked | None:
        """As a job of one run."""
        return _asked(self.spec)

    def show(self, *, as_json: bool) -> None:
        """Print every value, and the derived values with their reasons."""
        configuration.configuration(self.spec, as_json=as_json)

    def start(self, argv: Sequence[str], *, as_json: bool, anyway: bool = False) -> int:
        """Create the run directory, and train and report, or give the run to a scheduler."""
        from ftcli.build import gate
        from ftcli.launch.nodes import joined, node_of

        require_named(self.run.unnamed)
        if asked := self.asked():
            from ftcli.cli.jobs.submission import submit

            return submit(asked, lambda: self.prepared(argv))
        require_here(self.spec)
        node = node_of(self.spec)
        if node.rank:
            directory = Path(str(self.spec.run.dir)).resolve()
            read = joined(self.spec, directory)
            spec = gate.admitted(read, str(directory / rundir.SPEC), frozenset(self.spec.grants), gate.TRAINS)
            output.note(f"run {directory}, as node {node.rank}")
            return _train(spec, directory, None, node, as_json=as_json)
        require_rows(self.spec)
        if not anyway:
            require_disk([self.run])
        directory = self.prepared(argv)
        for item in self.spec.notes:
            if item.key.startswith(("train.", "data.", "model.", "hardware.type")):
                output.note(f"  {item.key} = {item.value}  ({item.why})")
        _remember(self.spec)
        with rundir.exclusive(directory):
            return _train(self.spec, directory, None, node, as_json=as_json)

    def prepared(self, argv: Sequence[str]) -> Path:
        """Create the run directory, with what a resume needs.

        Raises:
            ConfigError: it cannot be created, or is not empty.
        """
        from ftcli.build.inputs import run_inputs
        from ftcli.launch.local import prepare

        directory = prepare(self.spec, argv)
        output.note(f"run {directory}")
        run_inputs.record(self.spec, directory)
        return directory


@dataclass(frozen=True)
class RunFolder(JobFolder):
    """The directory of a run."""

    directory: Path

    def asked(self, request: Request) -> Asked | None:
        """As a job of one run, with what a resume changes."""
        from ftcli.build import gate

        return _asked(gate.opened(self.directory, request.grants, gate.TRAINS), request.overrides)

    def like(self, request: Request) -> RunJob:
        """A new run with the configuration of this one."""
        from ftcli.build.resume import spec_from

        return RunJob(ResolvedRun.of(spec_from(self.directory, request)))

    def resume(self, request: Request, *, dry_run: bool, as_json: bool, anyway: bool = False) -> int:
        """Resume from the newest valid checkpoint; only length and cadence may change."""
        from ftcli.build.resume import adopted, has_steps_left, resumed_spec
        from ftcli.cli.jobs.submission import show_script, submit
        from ftcli.launch.nodes import node_of
        from ftcli.launch.slurm import require_not_queued

        spec = resumed_spec(self.directory, request.overrides, request.grants)
        finished = rundir.read_result(self.directory) is not None
        if request.overrides or not finished:
            require_not_queued(self.directory, os.environ)
        if not (dry_run or node_of(spec).rank):
            request = replace(request, overrides=adopted(self.directory, request.overrides, output.note))
        changes = [text for text in request.overrides if not text.startswith("hardware.")]
        if finished and not (changes and has_steps_left(self.directory, spec)):
            longer = "to train further, set train.max_steps or train.num_train_epochs"
            output.note(f"{self.directory} is finished; {longer}")
            return _report(self.directory, as_json=as_json)
        if (asked := _asked(spec, request.overrides)) and not dry_run:
            return submit(asked, self.directory.resolve)
        (require_folders if dry_run else require_here)(spec)
        # On another node the processes of the first may be at work already, for which that node holds the lock.
        node = node_of(spec)
        if dry_run:
            if not node.rank:
                rundir.require_free(self.directory)
            self._show_left(spec, self._resumed_from(spec), as_json=as_json)
            if asked and not as_json:
                show_script(asked, self.directory)
            return EXIT_DONE
        with nullcontext() if node.rank else rundir.exclusive(self.directory):
            # Another command may have changed the run between the first look and the lock.
            spec = resumed_spec(self.directory, request.overrides, request.grants)
            if not (anyway or node.rank):
                require_disk([ResolvedRun.of(spec)], self.directory)
            return self._go_on(spec, node, as_json=as_json)

    def _resumed_from(self, spec: RunSpec) -> Path | None:
        """The checkpoint that the run resumes from, once what it reads is known to be as it was."""
        from ftcli.build.inputs.run_inputs import require_unchanged
        from ftcli.launch.local import newest_checkpoint
        from ftcli.peft_methods.checkpoint_files import files_to_resume

        if unchecked := require_unchanged(spec, self.directory):
            output.note(f"{self.directory}: {unchecked}")
        return newest_checkpoint(self.directory, files_to_resume(spec), output.note)

    def _go_on(self, spec: RunSpec, node: Node, *, as_json: bool) -> int:
        from ftcli.build import restart

        _remember(spec)
        checkpoint = self._resumed_from(spec)
        start = checkpoint.name if checkpoint else "the start: no checkpoint has been written yet"
        output.note(f"resuming {self.directory} from {start}")
        settle = restart.replace_spec(self.directory, spec) if not node.rank else None
        code = _train(spec, self.directory, checkpoint, node, as_json=as_json)
        if settle is not None:
            settle(code)
        return code

    def _show_left(self, spec: RunSpec, checkpoint: Path | None, *, as_json: bool) -> None:
        """Print the plan of a resumed run and where it resumes."""
        from ftcli.cli.render import plan as of_plan
        from ftcli.plan.outlook import plan

        run = ResolvedRun.of(spec)
        outlook = plan(run)
        if as_json:
            left = {"run": str(self.directory), **of_plan.left(outlook, checkpoint)}
            whole = {**of_plan.as_data(run, outlook), "resume": left}
            output.data({**whole, provenance.KEY: provenance.of_folder(self.directory)})
            return
        output.say(f"{self.directory} {of_plan.resumed(outlook, checkpoint)}")
        of_plan.show(run, outlook, as_json=False)

    def report(self, *, as_json: bool) -> None:
        """Print what was trained, loss and score before and after, plan beside reality, and the model's folder.

        Of a run that is not done: where it stands, and its loss so far.
        """
        from ftcli.cli.render import summary

        if as_json:
            output.data({**summary.as_data(self._record), provenance.KEY: provenance.of_folder(self.directory)})
        else:
            summary.show(self._record)

    def records(self) -> list[RunRecord]:
        """The one of this run."""
        return [self._record]

    @cached_property
    def _record(self) -> RunRecord:
        """Read once for the text and for the page."""
        from ftcli.reports.run_record import run_record

        return run_record(self.directory, rundir.shown_name(self.directory))


def _asked(spec: RunSpec, overrides: Sequence[str] = ()) -> Asked | None:
    """What a scheduler is asked for a run, where it is given to one from here."""
    if not submits(spec.hardware, os.environ):
        return None
    from ftcli.cli.jobs.submission import Asked
    from ftcli.launch.slurm import words_of

    return Asked(spec=spec, words=words_of(spec, overrides))


def _remember(spec: RunSpec) -> None:
    """Keep what the line that resumes this run has to have."""
    from ftcli.build import gate

    own = {name: getattr(spec.hardware, name) for name in OWN}
    places = [f"hardware.{name}={value}" for name, value in own.items() if value is not None]
    resume_line.remember([*places, *gate.flags_needed(spec), *plugin_loading.words()])


def _train(spec: RunSpec, directory: Path, checkpoint: Path | None, node: Node, *, as_json: bool) -> int:
    from ftcli.build import restart
    from ftcli.build.inputs.run_inputs import complete

    code, spec = restart.train(spec, directory, checkpoint, output.note, node)
    if code == EXIT_MEMORY:
        from ftcli.cli.render.plan import after_memory

        output.lines(after_memory(ResolvedRun.of(spec)))
    if not node.rank:
        complete(spec, directory)
    if code in (EXIT_DONE, EXIT_GATE):  # with either the run is whole
        _report(directory, as_json=as_json)
    return code


def _report(directory: Path, *, as_json: bool) -> int:
    """Print the result of a run that has just ended, and the suggested next commands."""
    RunFolder(directory).report(as_json=as_json)
    if not as_json:
        from ftcli.cli.render.summary import follow_up

        follow_up(directory)
    return EXIT_DONE
