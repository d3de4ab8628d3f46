"""A real endpoint of OpenAI's form, `transformers serve` on loopback, with faults put in front of it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.core.errors import ConfigError, InterruptedRun
from ftcli.runs import rundir
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis.synthesis_spec import FILE, SynthesisSpec
from tests.loopback import serving
from tests.whole.conftest import TIMEOUT_SECONDS, environment

CANARY = "sk-canary-5b1f0c"
PROMPTS = 16
PATIENCE_SECONDS = 120.0
"""How long an answer may take that is no fault: on a busy machine a right one takes many times as long as alone."""


class Server:
    """The built-in model, served by transformers at an address that outlives a restart."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen([*words, "--device", "cpu"], env=environment(), stdout=log, stderr=log)
        until = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=PATIENCE_SECONDS)
                return
            except OSError:
                self.check()
                time.sleep(0.1)
        raise AssertionError("transformers serve does not answer")

    def check(self) -> None:
        """A test that asks a server which has died would only say that it cannot be reached."""
        assert self.process is not None
        ended = self.process.poll()
        assert ended is None, f"transformers serve ended with {ended}:\n{self._log.read_text()[-3000:]}"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server."""
    found = Server(tmp_path_factory.mktemp("server") / "log")
    found.start()
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture
def served(server: Server) -> Iterator[str]:
    """Its address; it runs before and after the test."""
    server.check()
    yield server.url
    server.check()


class Faulty(BaseHTTPRequestHandler):
    """Hands requests on, but answers one in five with a fault of its own."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Authorization"] == f"Bearer {CANARY}"
        with self.server.lock:
            self.server.requests += 1
            fault = self.server.rng.choice(("429", "500", "drop")) if self.server.rng.random() < 0.2 else ""
            self.server.faults += bool(fault)
        if fault == "drop":
            self._drop()
        elif fault:
            self._answer(int(fault), b'{"error": {"message": "injected"}}')
        else:
            self._hand_on(body)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _hand_on(self, body: bytes) -> None:
        request = urllib.request.Request(
            self.server.target + self.path, data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                found = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            found = error.code, error.read()
        except OSError:  # it is down
            self._drop()
            return
        self._answer(*found)

    def _answer(self, status: int, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # who asked has gone: it waited too long
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Quiet."""


class Holding(Faulty):
    """Says nothing to the first try of each prompt until who asked gives up, and answers the next at once."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body)["messages"][-1]["content"]
        with self.server.lock:
            first = asked not in self.server.held
            self.server.held.add(asked)
        if first:
            with contextlib.suppress(OSError):
                assert self.connection.recv(1) == b""
            self.server.given_up.append(asked)
            self.close_connection = True
            return
        message = {"role": "assistant", "content": f"You said: {asked}"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m",
                  "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}  # fmt: skip
        self._answer(200, json.dumps(answer).encode())


class Gate(Faulty):
    """Hands so many requests on, and the others once the server behind it was killed."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.requests += 1
            beyond = self.server.requests > self.server.most
        if beyond:
            self.server.killed.wait()
        self._hand_on(body)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a stage that asks an address, and gives its folder."""
    monkeypatch.setenv("CANARY_KEY", CANARY)
    rows = [{"prompt": [{"role": "user", "content": f"Add {i} and 4 for me."}]} for i in range(PROMPTS)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def make(url: str, task: str = "generate", rows: str = "prompts.jsonl", **backend: Any) -> Path:
        folder = tmp_path / "stage"
        folder.mkdir(exist_ok=True)
        asked = {"type": "openai", "model": str(tiny.MODEL_DIR), "base_url": f"{url}/v1", "api_key_env": "CANARY_KEY"}
        asked |= {"timeout_seconds": PATIENCE_SECONDS, "concurrency": 4, **backend}
        settings: dict[str, Any] = {"max_new_tokens": 6}
        spec = SynthesisSpec(
            task=task, seed=1, dir=str(folder), rows=str(tmp_path / rows),
            role="generator" if task == "generate" else "judge",
            backend=BackendSettings(**asked), settings=settings if task == "judge" else {**settings, "n": 1},
        )  # fmt: skip
        rundir.write_atomically(folder / FILE, spec.to_json())
        return folder

    return make


def test_with_faults_in_a_fifth_of_the_requests_every_item_is_made_once(served, stage):
    from ftcli.worker.commands.synthesise import make

    state = {"target": served, "rng": random.Random(3), "requests": 0, "faults": 0, "lock": threading.Lock()}
    with serving(Faulty, **state) as proxy:
        url = f"http://127.0.0.1:{proxy.server_address[1]}"
        folder = stage(url, max_requests=9)
        with pytest.raises(InterruptedRun, match="max_requests=9 is spent"):
            make(folder)
        assert proxy.requests <= 9
        kept = (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()
        assert 0 < len(kept) < PROMPTS
        result = make(stage(url))
        assert proxy.faults >= 2
    assert result["items"] == result["rows"] == PROMPTS
    assert result["backend"]["requests"] >= PROMPTS - len(kept)
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == PROMPTS
    assert [json.loads(line) for line in kept] == lines[: len(kept)]
    for path in folder.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()


def test_a_request_that_nobody_answers_is_given_up_and_made_again(stage):
    from ftcli.worker.commands.synthesise import make

    state = {"held": set(), "given_up": [], "lock": threading.Lock()}
    with serving(Holding, **state) as proxy:
        folder = stage(
            f"http://127.0.0.1:{proxy.server_address[1]}", timeout_seconds=2.0, concurrency=8, max_retries=50
        )
        result = make(folder)
    assert len(proxy.given_up) == PROMPTS
    assert result["items"] == result["rows"] == PROMPTS
    assert result["backend"]["retries"] >= PROMPTS
    lines = (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == PROMPTS


def test_a_server_that_is_killed_and_started_again_costs_no_item(server, stage):
    from ftcli.worker.commands.synthesise import make

    killed: list[int] = []
    state = {"target": server.url, "requests": 0, "most": 6, "killed": threading.Event(), "lock": threading.Lock()}
    with serving(Gate, **state) as gate:
        folder = stage(f"http://127.0.0.1:{gate.server_address[1]}", concurrency=2, max_retries=1000)

        def restart() -> None:
            journal = folder / "items.jsonl"
            while not journal.is_file() or journal.read_bytes().count(b"\n") < 3:
                time.sleep(0.005)
            server.kill()
            killed.append(journal.read_bytes().count(b"\n"))
            gate.killed.set()
            server.start()

        restarting = threading.Thread(target=restart)
        restarting.start()
        result = make(folder)
        restarting.join()
    assert 3 <= killed[0] <= 6
    assert result["items"] == result["rows"] == PROMPTS
    assert result["backend"]["retries"] >= 1
    keys = [json.loads(line)["key"] for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(set(keys)) == len(keys) == PROMPTS


def test_an_endpoint_without_log_probabilities_has_its_verdicts_read(served, stage, tmp_path):
    """The base model says nothing that is a verdict: all are dropped and counted, and none is guessed."""
    from ftcli.core.errors import DataError
    from ftcli.worker.commands.synthesise import make

    row = {"prompt": "Hello?", "answers": ["Hi.", "Go away."]}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="all 1 items were dropped"):
        make(stage(served, "judge", "answers.jsonl", max_retries=1))
    line = json.loads((tmp_path / "stage" / "items.jsonl").read_text(encoding="utf-8"))
    assert line["dropped"] == "unreadable verdict"


def test_a_key_that_is_not_set_and_a_model_that_is_not_there_are_told(served, stage, monkeypatch):
    from ftcli.worker.commands.synthesise import make

    # A connection that is lost on a busy machine is tried again; what is wrong with the model is not.
    with pytest.raises(ConfigError, match="did not answer in 3 attempts; last error: Error code: 500"):
        make(stage(served, model="no/such-model", max_retries=2))
    monkeypatch.delenv("CANARY_KEY")
    with pytest.raises(ConfigError, match="CANARY_KEY with the API key is not set"):
        make(stage(served))
    assert os.environ.get("CANARY_KEY") is None
