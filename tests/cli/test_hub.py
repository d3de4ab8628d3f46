"""A hub model that cannot be had is told before the heavy imports, each cause with its own remedy.

A real server on loopback stands in for the hub, reached as users reach mirrors: through HF_ENDPOINT.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ftcli.core import hub_cache
from tests.conftest import REPOSITORY
from tests.loopback import serving

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate"}

_WRAPPER = """
import sys
from ftcli.cli import main
code = main(sys.argv[1:])
print("loaded:" + ",".join(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
sys.exit(code)
"""


class _Hub(BaseHTTPRequestHandler):
    """Answers every request with the server's `answer`: status, headers, body; counts requests."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        status, headers, body = self.server.answer(self.path)  # type: ignore[attr-defined]
        payload = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(payload))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    with serving(_Hub, requests=[]) as server:
        yield server


def typed(here: Path, endpoint: str, *words: str, **values: str) -> tuple[int, str, set[str]]:
    """Exit code, messages and loaded modules of a command that talks to the hub at `endpoint`."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_ENDPOINT": endpoint, "HF_HOME": str(here / "hf")}
    environment |= {"HF_HUB_OFFLINE": "0", "no_proxy": "127.0.0.1", **values}
    done = subprocess.run(
        [sys.executable, "-c", _WRAPPER, *words], env=environment, capture_output=True, text=True, check=False
    )
    messages, _, modules = done.stderr.rpartition("loaded:")
    return done.returncode, messages, set(modules.strip().split(","))


def address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def always(status: int, headers: dict[str, str] | None = None, body: object = None):
    return lambda _path: (status, headers or {}, body if body is not None else {"error": "no"})


GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"}
UNKNOWN = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository Not Found"}
REVISION = {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}


def _gated_files_only(path: str) -> tuple[int, dict[str, str], object]:
    """As the real hub does: a gated model's page is public, its files are not."""
    if path.endswith("auth-check"):
        return 403, GATED, {"error": "gated"}
    return 200, {}, {"id": MODEL, "modelId": MODEL, "siblings": [], "tags": [], "gated": "manual"}


@pytest.mark.parametrize(
    ("answer", "words", "what", "remedy"),
    [
        (always(401, GATED), (), "is gated and this account has no access", "accept the terms"),
        (always(403, GATED), (), "is gated and this account has no access", "`hf auth login`"),
        (_gated_files_only, (), "is gated and this account has no access", "accept the terms"),
        (always(404, UNKNOWN), (), "the hub has no model", "check the spelling"),
        (always(401, UNKNOWN), (), "the hub has no model", "`hf auth login` if it is private"),
        (always(404, REVISION), ("model.revision=v9",), "has no revision v9", "name a branch, tag or commit"),
        (always(400), (), "the hub cannot be reached", "model.name_or_path=/a/folder"),
        (always(200, body=["a captive portal"]), (), "the hub cannot be reached", "model.name_or_path=/a/folder"),
    ],
)
def test_each_answer_of_the_hub_has_its_own_remedy(here, hub, answer, words, what, remedy):
    hub.answer = answer
    code, messages, modules = typed(here, address(hub), "train", "model=llama", *words)
    assert code == 2, messages
    assert what in messages
    assert remedy in messages
    assert "Traceback" not in messages
    assert messages.startswith(f"model.name_or_path={MODEL}  ")
    assert modules & HEAVY == set()
    assert hub.requests
    assert not (here / "runs").exists()


def test_a_hub_that_refuses_the_connection_is_unreachable(here):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"  # bound and not listening
        code, messages, modules = typed(here, endpoint, "train", "model=llama")
    assert code == 2
    assert "is not in the local cache, and the hub cannot be reached" in messages
    assert "copy the cache, or set model.name_or_path=/a/folder" in messages
    assert modules & HEAVY == set()


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_an_offline_machine_is_told_without_asking(here, hub, variable):
    hub.answer = always(500)
    values = {"HF_HUB_OFFLINE": "", variable: "1"}
    code, messages, modules = typed(here, address(hub), "train", "model=llama", **values)
    assert code == 2
    assert f"{variable} forbids the network" in messages
    assert modules & (HEAVY | {"huggingface_hub"}) == set()
    assert hub.requests == []


@pytest.mark.parametrize("method", ["sft", "rlhf"])
def test_a_data_set_that_cannot_be_had_is_told_before_a_run_is_made(here, hub, method):
    hub.answer = always(404, {"X-Error-Code": "RepoNotFound"})
    words = ("train", f"method={method}", "data.path=someone/unheard-of", "hardware=cpu")
    code, messages, modules = typed(here, address(hub), *words)
    assert code == 2
    assert "someone/unheard-of" in messages
    assert modules & HEAVY == set()
    assert not (here / "runs").exists()


@pytest.mark.parametrize("command", ["plan", "check", "show"])
def test_planning_needs_no_hub(here, hub, command):
    hub.answer = always(500)
    code, messages, _ = typed(here, address(hub), command, "model=llama", "peft=lora")
    assert (code, messages) == (0, "")
    assert hub.requests == []


def test_generate_asks_the_same_question(here, hub):
    hub.answer = always(401, GATED)
    code, messages, modules = typed(here, address(hub), "generate", MODEL, "hi")
    assert code == 2
    assert "accept the terms" in messages
    assert modules & HEAVY == set()


def test_a_model_in_the_cache_is_found_without_the_hub(here, monkeypatch):
    from ftcli.core.errors import ConfigError
    from ftcli.models import availability

    monkeypatch.setenv("HF_HUB_CACHE", str(here / "cache"))
    repository = here / "cache" / "models--someone--model"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="not in the local cache"):  # no weights yet
        availability.require("someone/model", None, "here")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (snapshot / "model-1.safetensors").touch()
    with pytest.raises(ConfigError, match="not in the local cache"):  # a download that was broken off
        availability.require("someone/model", None, "here")
    (snapshot / "model-2.safetensors").touch()
    availability.require("someone/model", None, "here")
    availability.require("someone/model", "main", "here")
    availability.require("someone/model", "abc", "here")
    with pytest.raises(ConfigError, match="not in the local cache"):
        availability.require("someone/model", "v2", "here")
    assert hub_cache.cached_snapshot("someone/model", None) == snapshot
