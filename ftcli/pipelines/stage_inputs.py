"""What the stages of a pipeline read that no stage makes: rows, models, principles and code, by stage and setting.

PIPELINE/inputs.json has the digest of each from when the pipeline began, so that in a copy of its folder they are known
again, also for the stages that have yet to begin.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ftcli.build.inputs import run_inputs
from ftcli.core.paths import is_builtin
from ftcli.data import row_sets
from ftcli.data.files.locate import SourcePath, locate
from ftcli.pipelines.stages import ROWS, ROWS_OF_TASK, PipelineSpec, RunStage, StageSpec, SynthesisStage
from ftcli.settings.backends import OWN_WEIGHTS
from ftcli.settings.run_spec import RunSpec
from ftcli.synthesis.synthesis_spec import SynthesisSpec

NAMED_BY_TASKS = ("constitution", "examples", "labelled")
"""The settings of synthesis tasks that name files."""


def record(spec: PipelineSpec, folder: Path) -> None:
    """Write inputs.json; what is not on this machine yet is left out.

    Raises:
        ConfigError: a remote file cannot be accessed.
        DataError: a local one cannot be read.
    """
    named = {f"stages.{each.name}.{name}": path for each in spec.stages for name, path in files_of(each)}
    run_inputs.write(folder, {name: run_inputs.identified(path) for name, path in named.items()})


def files_of(each: StageSpec) -> Iterator[tuple[str, str]]:
    """Each file that a stage reads and no other makes, as (setting:name, path)."""
    if isinstance(each, RunStage):
        fed = [*each.fed, *(["data.mix.made.path"] if ROWS in each.fed else [])]
        # While its rows are to come, the built-in ones stand in their place, with a held-out set of their own.
        fed += ["data.eval_path"] if ROWS in each.fed and each.spec.data.eval_path is None else []
        for name, path in run_inputs.files_of(each.spec):
            setting = name.partition(":")[0]
            if not any(setting == taken or setting.startswith(f"{taken}.") for taken in fed):
                yield name, path
    elif isinstance(each, SynthesisStage):
        yield from _of_task(each)
    elif not each.stage.task:
        yield from run_inputs.files_of_model("model", each.source, None)
    elif os.path.isfile(each.source):
        yield f"rows:{os.path.basename(each.source)}", each.source


def _of_task(each: SynthesisStage) -> Iterator[tuple[str, str]]:
    spec = each.spec
    if ROWS_OF_TASK not in each.takes():
        source = SourcePath(path=row_sets.set_file(spec.rows, "train"))
        for file in locate(source, ROWS, fetch=False) or ():
            yield f"{ROWS}:{os.path.basename(file.name)}", file.path
    yield from named_by_task(spec)
    if spec.backend.type in OWN_WEIGHTS and not takes_model(each):
        yield from run_inputs.files_of_model(f"{spec.role}.model", str(spec.backend.model), spec.backend.revision)


def named_by_task(spec: SynthesisSpec) -> Iterator[tuple[str, str]]:
    """The files that the settings of a task name: principles, examples, labelled pairs."""
    for name in NAMED_BY_TASKS:
        value = spec.settings.get(name)
        if isinstance(value, str) and not is_builtin(value) and os.path.isfile(value):
            yield f"make.{name}:{os.path.basename(value)}", value


def changed(known: Mapping[str, run_inputs.Record], stage: str, spec: RunSpec | SynthesisSpec) -> list[str]:
    """The settings of a stage whose files are not what the pipeline began with; its rows are compared elsewhere."""
    if isinstance(spec, SynthesisSpec):
        files = named_by_task(spec)
    else:
        files = (file for file in run_inputs.files_of(spec) if not file[0].startswith("data."))
    return run_inputs.changed(known, [(f"stages.{stage}.{name}", path) for name, path in files])


def takes_model(each: SynthesisStage) -> bool:
    """Whether another stage's model answers."""
    own = each.remembered()["make"]["values"].get(f"{each.spec.role}.model")
    return own is None and "backend.model" in each.takes() and each.spec.backend.type in OWN_WEIGHTS
