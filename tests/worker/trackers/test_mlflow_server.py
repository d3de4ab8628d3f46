"""MLflow's server, as far as a run speaks to it: a real one on this machine, with MLflow's own messages."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from ftcli.settings.tracker_declaration import TrackedRun
from tests.loopback import serving

pytest.importorskip("mlflow", reason="pip install 'ftcli[mlflow]'")


class Server(BaseHTTPRequestHandler):
    """Keeps experiments, runs and metrics."""

    server: Any

    def do_GET(self) -> None:
        self._answer(parse_qs(urlparse(self.path).query))

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, asked: dict[str, Any]) -> None:
        kept, name = self.server.kept, urlparse(self.path).path.removeprefix("/api/2.0/mlflow/")
        self.server.asked.append(name)
        code, answer = 200, dict[str, Any]()
        run = kept.get("run")
        match name:
            case "experiments/get-by-name" if "experiment" not in kept:
                code, answer = 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
            case "experiments/get-by-name":
                answer = {"experiment": {"experiment_id": "7", "name": kept["experiment"], "lifecycle_stage": "active"}}
            case "experiments/create":
                kept["experiment"], answer = asked["name"], {"experiment_id": "7"}
            case "runs/create":
                info = {"run_id": "r1", "run_name": asked["run_name"], "experiment_id": "7", "status": "RUNNING"}
                kept["run"] = {"info": info, "tags": asked["tags"], "params": [], "metrics": []}
                answer = {"run": {"info": info, "data": {"tags": asked["tags"]}}}
            case "runs/search":
                latest = [*{each["key"]: each for each in run["metrics"]}.values()]
                answer = {"runs": [{"info": run["info"], "data": {"metrics": latest, "tags": run["tags"]}}]}
                kept["filter"] = asked["filter"]
            case "runs/log-batch":
                run["metrics"] += asked.get("metrics", [])
                run["params"] += asked.get("params", [])
            case "runs/update":
                run["info"] |= {"status": asked["status"]}
                answer = {"run_info": run["info"]}
            case "runs/get":
                answer = {"run": {"info": run["info"], "data": {}}}
            case "metrics/get-history":
                answer = {"metrics": [each for each in run["metrics"] if [each["key"]] == asked["metric_key"]]}
            case _:
                code, answer = 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": name}
        text = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def tracked(folder: Path, step: int = 0) -> TrackedRun:
    folder.mkdir(exist_ok=True)
    config = {"train": {"learning_rate": 0.5}, "seed": 3}
    return TrackedRun(folder=folder, name="n/t", id="0123456789abcdef", config=config, ledger="d1", step=step)


def test_a_server_keeps_the_run_and_a_resume_goes_on_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ftcli.worker.trackers.mlflow import MlflowRun

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with serving(Server, kept={}, asked=[]) as server:
        settings = {"experiment": "letters", "tracking_uri": f"http://127.0.0.1:{server.server_port}"}
        first = MlflowRun(tracked(tmp_path / "f"), settings)
        assert first.logged == -1
        first.log({"loss": 0.5, "odd name (%)": 2.0}, 1, 100.0)
        first.log({"loss": 0.25}, 2, 101.0)
        first.close()
        kept: dict[str, Any] = server.kept  # type: ignore[attr-defined]
        assert kept["experiment"] == "letters"
        assert (kept["run"]["info"]["run_name"], kept["run"]["info"]["status"]) == ("n/t", "FINISHED")
        tags = {each["key"]: each["value"] for each in kept["run"]["tags"]}
        assert (tags["ftcli.id"], tags["ftcli.ledger_sha256"]) == ("0123456789abcdef", "d1")
        assert {"key": "train.learning_rate", "value": "0.5"} in kept["run"]["params"]
        again = MlflowRun(tracked(tmp_path / "f", step=1), settings)
        assert (again.logged, kept["run"]["info"]["status"]) == (2, "RUNNING")
        assert "0123456789abcdef" in kept["filter"]
        again.log({"loss": 0.125}, 3, 102.0)
        again.close()
        points = [(each["key"], each["step"], each["value"]) for each in kept["run"]["metrics"]]
        assert points == [("loss", 1, 0.5), ("odd name ___", 1, 2.0), ("loss", 2, 0.25), ("loss", 3, 0.125)]
        assert server.asked.count("runs/create") == 1  # type: ignore[attr-defined]
    assert [*(tmp_path / "f").iterdir()] == []
