"""No password and no token reaches what a run saves: not typed, not from a recipe, not in a pipeline's stage."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ftcli.cli import main
from ftcli.data.files.http import look
from tests.conftest import REPOSITORY
from tests.loopback import serving

TOKEN = "hf_" + "a1B2" * 8
JUDGE = (
    "ftcli: 1\ndefaults:\n  - method: rlaif\n  - judge: openai\njudge:\n  model: m\n  base_url: http://u:secret@h/v1\n"
)


@pytest.mark.parametrize(
    "words",
    [
        ("data.path=https://me:secret@host/a.jsonl",),
        ("data.path=[https://me:secret@host/a.jsonl,b.jsonl]",),
        ("data.mix={a: {path: 'https://me:secret@host/a.jsonl'}}",),
        ("method=grpo", "method.use_vllm=true", "method.vllm_mode=server", "method.vllm_server_base_url=http://u:secret@h"),
        ("method=ppo", "method.judge={type: openai, model: m, base_url: 'http://u:secret@h/v1'}"),
        ("method=ppo", f"method.judge={{type: openai, model: m, api_key_env: {TOKEN}}}"),
        ("method=rlaif", "judge=openai", "judge.model=m", "judge.base_url=http://u:secret@h/v1"),
        (f"train.hub_model_id={TOKEN}",),
        ("recipe=r.yaml", "--allow-endpoint"),
    ],
)  # fmt: skip
def test_a_run_with_a_secret_in_its_settings_is_not_begun(words, here: Path, capsys):
    (here / "r.yaml").write_text(JUDGE, encoding="utf-8")
    assert main(["train", *words, "run.dir=r"]) == 2
    out, err = capsys.readouterr()
    assert "which would be saved in the run directory" in err
    assert "~/.netrc" in err
    assert "secret" not in out + err
    assert TOKEN not in out + err
    left = [path for path in here.rglob("*") if path.is_file() and path.name != "r.yaml"]
    assert left == []


def test_a_sweep_prints_none(here: Path, capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # its jobs are processes of their own
    assert main(["train", "--multirun", "seed=1,2", "data.path=https://me:secret@host/a.jsonl", "run.dir=r"]) == 2
    out, err = capfd.readouterr()
    assert err.count("which would be saved in the folder of the sweep") == 1
    assert not (here / "r").exists()
    assert "secret" not in out + err


class Recorder(BaseHTTPRequestHandler):
    """Keeps what it was sent."""

    server: Any

    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("Authorization"))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.mark.parametrize(("host", "sent"), [("127.0.0.1", "Basic bWU6czpjcmV0QDE="), ("other.example", None)])
def test_a_web_address_takes_its_password_from_netrc(host, sent, here: Path, monkeypatch):
    monkeypatch.setenv("NETRC", str(here / "netrc"))
    (here / "netrc").write_text(f"machine {host} login me password s:cret@1\n", encoding="utf-8")
    with serving(Recorder, seen=[]) as server:
        look(f"http://127.0.0.1:{server.server_address[1]}/a.jsonl", "x").close()
        assert server.seen == [sent]


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_recipe_show_prints_no_secret(flag, here: Path, capsys):
    text = (
        f"ftcli: 1\ndefaults:\n  - method: sft\ntrain:\n  hub_token: {TOKEN}\nmodel: {{licence: 'http://u:secret@h'}}\n"
    )
    (here / "r.yaml").write_text(text, encoding="utf-8")
    assert main(["recipe", "show", "r.yaml", *flag]) == 0
    out = capsys.readouterr().out
    assert TOKEN not in out
    assert "secret" not in out
    assert "hub_token" in out
