"""A judge compares the answers of two models in both orders; a winner in one order only is a tie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis import principles
from ftcli.synthesis.backend import Question, Reply
from ftcli.synthesis.regex_backend import Rules
from ftcli.synthesis.tasks import Judge, JudgeSettings
from ftcli.worker.commands.judged import evaluate
from ftcli.worker.inference.backends import backend_of
from ftcli.worker.measures.intervals import WILSON
from ftcli.worker.measures.judged import compare
from tests.loopback import serving

PROMPTS = ["one?", "two?", "three?", "four?", "five?"]
OURS = ["fine", "bad", "fine", "bad again", "same"]
THEIRS = ["bad", "fine", "fine too", "bad", "same"]


class Says:
    """A judge that always says the same."""

    batch_size: int | None
    concurrency = 2

    def __init__(self, text: str, batch_size: int | None = 2) -> None:
        self.text, self.batch_size = text, batch_size

    def replies(self, questions: Sequence[Question]) -> list[Reply]:
        """As in the protocol."""
        return [Reply(text=self.text) for _ in questions]

    def about(self) -> dict[str, Any]:
        """As in the protocol."""
        return {"type": "says"}


def judged(backend: Any, ours: Sequence[str] = OURS, theirs: Sequence[str] = THEIRS) -> dict[str, Any]:
    by = tuple(each for each in principles.named(None) if each.name == "usefulness")
    return compare(PROMPTS, ours, theirs, Judge(JudgeSettings(principles_each=len(by)), seed=0, principles=by), backend)


def test_wins_losses_and_ties_are_counted_and_a_tie_is_half_a_win():
    rules = Rules(BackendSettings(type="rules", patterns=["bad"]), "--judge", {})
    found = judged(rules)
    # fine over bad, bad under fine, and three pairs that the rules cannot tell apart
    assert found["verdicts"] == ["wins", "losses", "ties", "ties", "ties"]
    assert found["counts"] == {"wins": 1, "ties": 3, "losses": 1, "unreadable": 0}
    assert found["estimate"]["value"] == (1 + 3 / 2) / 5
    assert found["estimate"]["interval"] == WILSON
    mirrored = judged(rules, THEIRS, OURS)
    assert mirrored["verdicts"][:2] == ["losses", "wins"]


@pytest.mark.parametrize("batch_size", [2, None])
def test_a_judge_that_only_looks_at_the_order_decides_nothing(batch_size):
    found = judged(Says("A", batch_size))
    assert found["counts"]["ties"] == 5
    assert found["first_shown_wins"] == 1.0
    assert found["estimate"]["low"] < 0.5 < found["estimate"]["high"]


def test_verdicts_that_cannot_be_read_are_counted_and_left_out():
    found = judged(Says("both are nice"))
    assert found["counts"] == {"wins": 0, "ties": 1, "losses": 0, "unreadable": 4}  # the same answer twice is a tie
    assert found["estimate"]["rows"] == 1
    assert judged(Says("hm"), ["a"] * 5, ["b"] * 5)["estimate"] is None


def test_an_answer_wins_over_none_without_a_judge():
    found = judged(Says("hm"), ["a", "", "", "a", "a"], ["", "b", "", "a", ""])
    assert found["verdicts"] == ["wins", "losses", "ties", "ties", "wins"]


class Shorter(BaseHTTPRequestHandler):
    """An endpoint of OpenAI's form that finds the shorter answer better."""

    server: Any

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][-1]["content"]
        first, second = text.partition("Answer A:\n")[2].partition("\n\nAnswer B:\n")[::2]
        choice = "A" if len(first) < len(second.partition("\n\nWhich")[0]) else "B"
        message = {"role": "assistant", "content": choice}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": asked["model"]}
        body |= {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
        body |= {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def test_an_endpoint_judges(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("openai", reason="pip install 'ftcli[endpoint]'")
    monkeypatch.setenv("JUDGE_KEY", "none")
    with serving(Shorter) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        settings = BackendSettings(type="openai", model="shorter", base_url=url, api_key_env="JUDGE_KEY")
        found = judged(backend_of(settings, "--judge", {}))
    assert found["verdicts"] == ["losses", "wins", "wins", "losses", "ties"]
    assert found["first_shown_wins"] == 0.5


def test_a_model_draws_against_itself():
    settings = {"type": "local", "model": str(tiny.MODEL_DIR)}
    request = {"model": "builtin:tiny", "against": "builtin:tiny", "data": str(Path(tiny.set_path("sft", "eval")))}
    found = evaluate({**request, "rows": 4, "judge": settings, "principles": None, "max_new_tokens": 8})
    assert (found["estimate"]["value"], found["counts"]["ties"]) == (0.5, 4)
    assert all(each["answer"] == each["against"] for each in found["samples"])
