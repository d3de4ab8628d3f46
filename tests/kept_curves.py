"""Reads back what trackers kept of a run, each by the tracker's own reader, in a process of its own.

python -m tests.kept_curves RUN    prints JSON: for each tracker its curve as [name, step, value], and what it was told
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def tensorboard(folder: Path) -> dict[str, Any]:
    """Event files, by TensorBoard's accumulator."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    points = [[tag, each.step, each.value] for tag in read.Tags()["scalars"] for each in read.Scalars(tag)]
    texts = {
        tag.split("/")[1]: read.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in read.Tags()["tensors"]
    }
    config = json.loads("\n".join(line[4:] for line in texts[["config", "text_summary"][0]].splitlines()))
    return {"points": points, "name": texts["run"], "ledger": texts["ledger"], "config": config}


BLOCK_BYTES, HEADER_BYTES = 32768, 7


def records(data: bytes) -> Iterator[bytes]:
    """The records of a wandb file: a log of LevelDB's form behind seven bytes of its own."""
    assert data[:4] == b":W&B"
    at, whole = HEADER_BYTES, b""
    while at + HEADER_BYTES <= len(data):
        if BLOCK_BYTES - at % BLOCK_BYTES < HEADER_BYTES:
            at += BLOCK_BYTES - at % BLOCK_BYTES
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + HEADER_BYTES])
        whole += data[at + HEADER_BYTES : at + HEADER_BYTES + length]
        at += HEADER_BYTES + length
        if kind in (1, 4):  # the whole of a record, or its last part
            yield whole
            whole = b""
    assert not whole


def wandb(folder: Path) -> dict[str, Any]:
    """The file of an offline run, by wandb's own messages."""
    from wandb.proto import wandb_internal_pb2

    [file] = folder.glob("wandb/offline-run-*/*.wandb")
    points: list[Any] = []
    told, config = dict[str, Any](), dict[str, Any]()
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        for item in record.run.config.update:
            config[item.key] = json.loads(item.value_json)
        if record.run.run_id:
            told |= {"name": record.run.display_name, "id": record.run.run_id, "host": record.run.host}
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        step = record.history.step.num
        points += [[name, step, value] for name, value in row.items() if not name.startswith("_")]
    return {"points": points, "ledger": config.pop("ledger_sha256"), "config": config, **told}


def trackio(folder: Path) -> dict[str, Any]:
    """The database, by trackio's storage."""
    os.environ["TRACKIO_DIR"] = str(folder)
    from trackio.sqlite_storage import SQLiteStorage

    [project] = SQLiteStorage.get_projects()
    [run] = SQLiteStorage.get_run_records(project)
    points = []
    for row in SQLiteStorage.get_logs(project, run["name"], run_id=run["id"]):
        points += [[name, row["step"], value] for name, value in row.items() if name not in ("step", "timestamp")]
    config = SQLiteStorage.get_run_config(project, run["name"], run_id=run["id"]) or {}
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    return {
        "points": points,
        "name": run["name"],
        "id": run["id"],
        "ledger": config.pop("ledger_sha256"),
        "config": config,
    }


def mlflow(folder: Path) -> dict[str, Any]:
    """The folder, by MLflow's client."""
    os.environ.update(MLFLOW_ALLOW_FILE_STORE="true", MLFLOW_DISABLE_TELEMETRY="true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=folder.as_uri())
    [experiment] = [each for each in client.search_experiments() if each.name != "Default"]
    [run] = client.search_runs([experiment.experiment_id])
    points = [
        [name, each.step, each.value]
        for name in run.data.metrics
        for each in client.get_metric_history(run.info.run_id, name)
    ]
    told = {"name": run.info.run_name, "id": run.data.tags["ftcli.id"], "ledger": run.data.tags["ftcli.ledger_sha256"]}
    return {"points": points, "config": run.data.params, "status": run.info.status, **told}


if __name__ == "__main__":
    trackers = Path(sys.argv[1]).resolve() / "trackers"
    readers = {each.__name__: each for each in (tensorboard, wandb, trackio, mlflow)}
    with contextlib.redirect_stdout(sys.stderr):
        found = {name: read(trackers / name) for name, read in readers.items() if (trackers / name).is_dir()}
    json.dump(found, sys.stdout)
