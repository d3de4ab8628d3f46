"""A file of a later version is refused by whatever reads it, and told from a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.build import fitting
from ftcli.build.inputs import run_inputs
from ftcli.core.errors import ConfigError
from ftcli.publishing import push_record
from ftcli.reports import kept_rows
from ftcli.runs import rundir
from ftcli.worker.process.environment import went_on
from ftcli.worker.training.run import require_same_sequences

READERS = {
    rundir.RESULT: rundir.read_result,
    rundir.PIPELINE: rundir.read_pipeline,
    rundir.INPUTS: run_inputs.recorded,
    rundir.ENVIRONMENT: lambda run: went_on(run, {}, "checkpoint-1"),
    rundir.SHOWN: kept_rows.shown_rows,
    rundir.ANSWERS: kept_rows.answers,
    rundir.PLAN: fitting.kept_expected,
    rundir.PUSHES: push_record.read,
    rundir.LEDGER: lambda run: require_same_sequences(run, {}, streams=False),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("schema", ["later", "2", None])
def test_a_later_schema_is_refused_by_name(name: str, schema: str | None, tmp_path: Path) -> None:
    given = rundir.SCHEMAS[name] + 1 if schema == "later" else schema
    (tmp_path / name).write_text(json.dumps({"schema": given}), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"has schema {given}, of a later version of ftcli; this one reads up to"):
        READERS[name](tmp_path)


def test_all_files_with_a_schema_have_a_reader_here_or_are_read_line_by_line() -> None:
    assert rundir.SCHEMAS.keys() - READERS.keys() == {rundir.METRICS}
