"""Stages that sample and judge answers say early that they leave no pairs, or that answers are cut off."""

from __future__ import annotations

from ftcli.synthesis import runner
from ftcli.synthesis.backend import Reply
from ftcli.synthesis.early_signs import EarlySigns, signs
from ftcli.synthesis.journal import Journal, keyed
from ftcli.synthesis.tasks import Generate, GenerateSettings, Judge, JudgeSettings
from tests.synthesis.test_synthesis import JUDGED, Saying

PAIRS = [{"prompt": f"Question {i}?", "answers": ["long", "longer"]} for i in range(160)]
JUDGE = Judge(JudgeSettings(), 1, (JUDGED,))


def said(task, rows, backend, folder):
    """What was printed of a stage, and what all of its items show."""
    folder.mkdir(exist_ok=True)
    texts: list[str] = []
    items = keyed(rows)
    runner.run(task, items, backend, folder, reached=lambda *_: None, look=EarlySigns(task, texts.append).look)
    journal = Journal(folder)
    return texts, list(signs(task, [journal.done[item.key] for item in items]))


def test_a_judge_that_always_prefers_the_first_leaves_ties_and_says_so_once(tmp_path):
    texts, [found] = said(JUDGE, PAIRS, Saying(lambda ask: "A"), tmp_path / "ties")
    assert texts == [
        "warning: 100% of 64 items give no pair to learn from: 100% tie\n"
        "  fix: choose principles that tell these answers apart (make.constitution), or a stronger judge"
    ]
    assert found["message"] == "100% of 160 items give no pair to learn from: 100% tie"


def test_answers_that_are_all_alike_are_named_and_that_it_ends(tmp_path):
    alike = [{**row, "answers": ["same", "same"]} if i < 64 else row for i, row in enumerate(PAIRS)]
    # the answer "long" wins wherever it stands
    verdict = Saying(lambda ask: "A" if ask.about[0] == "long" else "B")
    texts, found = said(JUDGE, alike, verdict, tmp_path / "alike")
    assert texts == [
        "warning: 100% of 64 items give no pair to learn from: 100% one answer said twice\n"
        "  fix: raise make.temperature of the stage that samples the answers, or have it give more of them (make.n)",
        "note: most items give pairs again",
    ]
    assert found == []  # 64 of 160


def test_answers_that_are_cut_off_are_named(tmp_path):
    task = Generate(GenerateSettings(max_new_tokens=8), 1)
    rows = [{"prompt": f"Question {i}?"} for i in range(64)]
    cut = Saying(lambda ask: Reply(text=f"on and on {ask.seed}", answer_tokens=8))
    texts, [found] = said(task, rows, cut, tmp_path / "cut")
    assert found["message"] == "100% of 128 answers are cut off at make.max_new_tokens=8"
    assert texts[0].endswith("fix: raise make.max_new_tokens (8), or ask for short answers in the prompts")


def test_a_healthy_stage_says_nothing(tmp_path):
    verdict = Saying(lambda ask: "A" if ask.about[0] == "long" else "B")
    assert said(JUDGE, PAIRS, verdict, tmp_path / "judged") == ([], [])
    task = Generate(GenerateSettings(max_new_tokens=8), 1)
    whole = Saying(lambda ask: Reply(text=f"short {ask.seed}", answer_tokens=3))
    assert said(task, [{"prompt": f"{i}?"} for i in range(70)], whole, tmp_path / "sampled") == ([], [])
