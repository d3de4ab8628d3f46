"""A judge compares the answers of two models in both orders; a winner in one order only is a tie."""

from __future__ import annotations

from collections.abc import Sequence
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
from tests.scripted_judge import judging

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


def test_an_endpoint_judges(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("openai", reason="pip install 'ftcli[endpoint]'")
    monkeypatch.setenv("JUDGE_KEY", "none")
    with judging() as url:
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
