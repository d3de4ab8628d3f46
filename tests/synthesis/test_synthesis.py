"""Data-making: tasks on a stand-in that answers by rule, a journal that survives kills, budgets that stop cleanly."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ftcli.core.errors import ConfigError
from ftcli.synthesis import few_shot, principles, runner
from ftcli.synthesis.backend import BudgetSpent, Question, Reply
from ftcli.synthesis.journal import Journal, keyed
from ftcli.synthesis.principles import Principle
from ftcli.synthesis.tasks import Generate, GenerateSettings, Judge, JudgeSettings, Revise, ReviseSettings, first_choice
from tests.conftest import REPOSITORY

ROWS = [{"prompt": f"Question {i}?"} for i in range(20)]
JUDGED = Principle(
    name="short", judge="Is {answer} short?", compare="{first} or {second} to {prompt}?",
    critique="What is long in {answer}?", revision="Shorten {answer} since {critique}",
)  # fmt: skip


class Stand:
    """Answers by a rule; asked for batches or singly."""

    def __init__(self, batch_size: int | None = 4, concurrency: int = 3, delay: float = 0.0, budget: int = 10**9):
        self.batch_size, self.concurrency, self.delay, self.budget = batch_size, concurrency, delay, budget
        self.asked: list[Question] = []

    def replies(self, asks: Sequence[Question]) -> list[Reply]:
        time.sleep(self.delay)
        if len(self.asked) + len(asks) > self.budget:
            raise BudgetSpent("judge.max_requests is spent")
        self.asked += asks
        return [Reply(text=f"{ask.turns[-1]['content']} {ask.seed % 1000}") for ask in asks]

    def about(self) -> dict[str, Any]:
        return {"requests": len(self.asked)}


class Saying(Stand):
    """Replies out of a list, or what a function says of an ask."""

    def __init__(self, say: Any) -> None:
        super().__init__()
        self.say = say

    def replies(self, asks: Sequence[Question]) -> list[Reply]:
        self.asked += asks
        return [found if isinstance(found := self.say(ask), Reply) else Reply(text=found) for ask in asks]


def go(task: Any, rows: Any, backend: Any, folder: Path) -> tuple[list[dict[str, Any]], Any]:
    """Make everything; the rows, and what was counted."""
    folder.mkdir(exist_ok=True)
    counts = runner.run(task, keyed(rows), backend, folder, reached=lambda *_: None)
    return [json.loads(line) for line in (folder / runner.DATA).read_text(encoding="utf-8").splitlines()], counts


def test_each_prompt_gets_its_answers_in_order_whatever_is_asked_together(tmp_path):
    task = Generate(GenerateSettings(n=2), seed=1)
    by_batch, counts = go(task, ROWS, Stand(), tmp_path / "batches")
    singly, _ = go(task, ROWS, Stand(batch_size=None, concurrency=5), tmp_path / "singly")
    assert by_batch == singly
    assert counts["rows"] == 20
    assert all(len(row["answers"]) == 2 and row["answers"][0] != row["answers"][1] for row in by_batch)
    assert [row["prompt"] for row in by_batch] == [row["prompt"] for row in ROWS]


def test_equal_prompts_are_items_of_their_own():
    keys = [item.key for item in keyed([{"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"}])]
    assert len(set(keys)) == 3
    assert keys == [item.key for item in keyed([{"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"}])]


def test_a_torn_line_is_cut_off_and_a_batch_that_is_not_whole_is_done_again(tmp_path):
    task = Generate(GenerateSettings(n=1), seed=1)
    whole, _ = go(task, ROWS, Stand(), tmp_path / "whole")
    lines = (tmp_path / "whole" / "items.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (0, 1, 3, 4, 7, 19):
        folder = tmp_path / f"cut{kept}"
        folder.mkdir()
        (folder / "items.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:-9])
        backend = Stand()
        again, _ = go(task, ROWS, backend, folder)
        assert again == whole
        assert len(backend.asked) == 20 - kept // 4 * 4
        assert len((folder / "items.jsonl").read_bytes().splitlines()) == 20


MANY = [{"prompt": f"Question {i}?"} for i in range(240)]
KILLS = 10
KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.synthesis.test_synthesis import MANY, Stand, go
from ftcli.synthesis.tasks import Generate, GenerateSettings
most = int(sys.argv[4])


class Held(Stand):
    def replies(self, asks):
        while len(self.asked) >= most:  # it is killed before its end, however late the kill comes
            time.sleep(1)
        return super().replies(asks)


print("begun", flush=True)
go(Generate(GenerateSettings(n=2), seed=1), MANY, Held(int(sys.argv[3]) or None, delay=0.01), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("batch_size", [4, 0])
def test_killed_at_ten_random_moments_every_item_is_made_once_and_the_rows_are_the_same(batch_size, tmp_path):
    repository = str(REPOSITORY)
    words = [sys.executable, "-c", KILLED, str(tmp_path / "run"), repository, str(batch_size)]
    answers = 2 * len(MANY)
    env = {**os.environ, "PYTHONPATH": repository}
    whole, _ = go(Generate(GenerateSettings(n=2), seed=1), MANY, Stand(), tmp_path / "whole")
    rng, kills = random.Random(batch_size), 0
    while True:
        most = answers // (KILLS + 2) if kills < KILLS else answers
        with subprocess.Popen([*words, str(most)], env=env, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            if kills < KILLS:
                time.sleep(rng.uniform(0.0, 0.06))
                process.send_signal(signal.SIGKILL)
            if process.wait() == 0:
                break
            kills += 1
    assert kills == KILLS
    rows = (tmp_path / "run" / runner.DATA).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in rows] == whole
    keys = [json.loads(line)["key"] for line in (tmp_path / "run" / "items.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == len(MANY)


@pytest.mark.parametrize("batch_size", [4, None])
def test_a_spent_budget_keeps_what_is_finished(batch_size, tmp_path):
    task = Generate(GenerateSettings(n=1), seed=1)
    whole, _ = go(task, ROWS, Stand(batch_size), tmp_path / "whole")
    with pytest.raises(BudgetSpent, match="max_requests"):
        go(task, ROWS, Stand(batch_size, budget=9), tmp_path / "run")
    done = Journal(tmp_path / "run").done
    assert 8 <= len(done) <= 9
    assert runner.used_by(done.values())["requests"] == len(done)
    backend = Stand(batch_size)
    assert go(task, ROWS, backend, tmp_path / "run")[0] == whole
    assert len(backend.asked) <= 12
    # What went into the rows is known however often the stage was stopped.
    assert runner.used_by(Journal(tmp_path / "run").done.values())["requests"] == len(ROWS)


def answered(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"prompt": f"q{i}", "answers": list(pair)} for i, pair in enumerate(pairs)]


def test_pairs_are_asked_in_both_orders_and_a_verdict_that_turns_with_them_is_a_tie(tmp_path):
    task = Judge(JudgeSettings(), 1, (JUDGED,))
    rows, counts = go(
        task,
        answered(("good", "bad")),
        Saying(lambda ask: "B" if "bad or" in ask.turns[-1]["content"] else "A"),
        tmp_path / "fair",
    )
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("good", "bad")]
    rows, counts = go(task, answered(("good", "bad")), Saying(lambda ask: "A"), tmp_path / "biased")
    assert rows == []
    assert counts["tie: the verdict turned with the order"] == 1
    assert Journal(tmp_path / "biased").done.popitem()[1]["first_shown_wins"] == 1.0


def test_soft_verdicts_come_from_log_probabilities(tmp_path):
    task = Judge(JudgeSettings(mode="score", least_margin=0.1), 1, (JUDGED,))
    worth = {"Is fine short?": (-0.1, -2.4), "Is poor short?": (-2.0, -0.2), "Is so so short?": (-2.1, -0.2)}
    backend = Saying(lambda ask: Reply(text="yes", choice_logps=worth[ask.turns[-1]["content"]]))
    rows, counts = go(task, answered(("poor", "fine"), ("poor", "so so"), ("fine", "fine")), backend, tmp_path / "run")
    [row] = rows
    assert (row["chosen"], row["rejected"]) == ("fine", "poor")
    assert row["margin"] == pytest.approx(0.9089 - 0.1419, abs=1e-3)
    assert counts["tie"] == 1
    assert counts["one answer said twice"] == 1


def test_a_compared_pair_keeps_the_mean_probability_of_both_orders_as_its_soft_label(tmp_path):
    """Lee et al. 2023, arXiv:2309.00267, section 2.1: the softmax over the tokens of the choices, in both orders."""

    def say(ask: Question) -> Reply:
        good_first = "good or" in ask.turns[-1]["content"]
        first, second = (0.6, 0.2) if good_first else (0.3, 0.45)  # the rest went to other tokens
        return Reply(text="A", choice_logps=(math.log(first), math.log(second)))

    rows, _ = go(Judge(JudgeSettings(), 1, (JUDGED,)), answered(("bad", "good")), Saying(say), tmp_path / "soft")
    [row] = rows
    # 0.6/0.8 = 0.75 where it is shown first, 0.45/0.75 = 0.6 where it is second: 0.675.
    assert (row["chosen"], row["rejected"], row["chosen_probability"]) == ("good", "bad", 0.675)
    assert row["margin"] == pytest.approx(0.35)
    told = Saying(lambda ask: "B" if "bad or" in ask.turns[-1]["content"] else "A")
    rows, _ = go(Judge(JudgeSettings(), 1, (JUDGED,)), answered(("bad", "good")), told, tmp_path / "hard")
    assert [(row["chosen"], row["chosen_probability"]) for row in rows] == [("good", None)]


def test_a_verdict_that_cannot_be_read_is_asked_for_again_and_then_dropped(tmp_path):
    tries = iter(["maybe", "hm", "A", "B"])
    task = Judge(JudgeSettings(), 1, (JUDGED,))
    rows, _ = go(task, answered(("x", "y")), Saying(lambda ask: next(tries)), tmp_path / "late")
    assert [row["chosen"] for row in rows] == ["x"]
    backend = Saying(lambda ask: "I would rather not say")
    rows, counts = go(task, answered(("x", "y")), backend, tmp_path / "never")
    assert rows == []
    assert counts["unreadable verdict"] == 1
    assert len(backend.asked) == 6
    assert [ask.temperature for ask in backend.asked] == [0.0, 0.0, 0.7, 0.7, 0.7, 0.7]


@pytest.mark.parametrize(
    ("text", "said"),
    [("A", 1.0), ("b.", 0.0), (" A\nbecause", 1.0), ("**B**", 0.0), ("A or B", None), ("Answer A", None), ("", None)],
)
def test_a_reply_is_read_strictly(text, said):
    assert first_choice(Reply(text=text), ("A", "B")) == said


def test_answers_are_criticised_and_revised_round_by_round(tmp_path):
    second = Principle(name="plain", critique="Is {answer} plain?", revision="Make {answer} plain: {critique}")
    task = Revise(ReviseSettings(rounds=3), 5, (JUDGED, second))
    backend = Saying(lambda ask: f"<{ask.turns[-1]['content'][:4]}{len(backend.asked)}>")
    rows, _ = go(task, answered(("long one", "")), backend, tmp_path / "run")
    replies = Journal(tmp_path / "run").done.popitem()[1]["replies"]
    assert [each["answer"] for each in replies] == ["long one", *(each["revision"] for each in replies[:-1])]
    assert rows == [{"prompt": "q0", "completion": replies[-1]["revision"]}]
    assert {each["principle"] for each in replies} <= {"short", "plain"}
    assert len(backend.asked) == 6


def test_examples_stand_before_each_question():
    shots = [{"role": "user", "content": "shot"}, {"role": "assistant", "content": "answer"}]
    task = Revise(ReviseSettings(), 1, (JUDGED,), {"critique": shots})
    backend = Saying(lambda ask: "x")
    task.process(keyed(answered(("a", "b"))), backend.replies)
    assert [len(ask.turns) for ask in backend.asked] == [3, 1]


# --- written examples -------------------------------------------------------------------------------------------------


def test_the_shipped_examples_ask_as_the_default_principles_do_and_answer_each_question():
    known = {principle.name: principle for principle in principles.read(principles.DEFAULT)}
    found = few_shot.named("default", ())
    assert found.keys() == {"critique", "revision"}
    for turns in found.values():
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * 4
        assert all(turn["content"].strip() for turn in turns)
        assert not any("{" in turn["content"] for turn in turns)
    for critique, revision in zip(found["critique"][::2], found["revision"][::2], strict=True):
        asked = [p for p in known.values() if critique["content"].endswith(p.critique.rpartition("}")[2])]
        assert len(asked) == 1
        assert revision["content"].endswith(asked[0].revision.rpartition("}")[2])
    # A revision is asked for with the critique that was just written.
    for reply, question in zip(found["critique"][1::2], found["revision"][::2], strict=True):
        assert reply["content"] in question["content"]
    assert few_shot.named(None, ()) == {}


def test_examples_of_ones_own_are_worked_by_ones_own_principles_or_shown_as_they_stand(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "examples:\n  - {principle: short, prompt: Why?, answer: 'Well, because.', critique: Well is long, "
        "revision: Because.}\n",
        encoding="utf-8",
    )
    found = few_shot.named(str(tmp_path / "own.yaml"), (JUDGED,))
    assert [turn["content"] for turn in found["critique"]] == ["What is long in Well, because.?", "Well is long"]
    assert [turn["content"] for turn in found["revision"]] == ["Shorten Well, because. since Well is long", "Because."]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "own.jsonl").write_text(json.dumps({"critique": turns, "revision": turns}) + "\n", encoding="utf-8")
    assert few_shot.named(str(tmp_path / "own.jsonl"), ()) == {"critique": turns, "revision": turns}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("e.yaml", "example: []\n", "has no list of examples"),
        ("e.yaml", "examples:\n  - {principle: short, prompt: x}\n", "e.yaml:2  is not an example"),
        (
            "e.yaml",
            "examples:\n  - {principle: shrt, prompt: a, answer: b, critique: c, revision: d}\n",
            "shrt is not a principle of the stage's constitution",
        ),
        ("e.jsonl", '{"critique": []}\n', "e.jsonl:1  is not a pair of examples"),
    ],
)
def test_a_fault_in_examples_is_told_with_its_line(name, text, told, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        few_shot.named(str(tmp_path / name), (JUDGED,))
    assert told in str(error.value)


def test_the_default_constitution_has_words_for_every_task():
    known = principles.read(principles.DEFAULT)
    assert len(known) >= 5
    assert all(each.judge and each.compare and each.critique and each.revision for each in known)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("principles: []\n", "no list of principles"),
        ("principles:\n  - judge: x\n", "has no name"),
        ("principles:\n  - name: a\n    judg: x\n", "judg is not a field"),
        ('principles:\n  - name: a\n    judge: "{anser}"\n', "{anser} is not a placeholder"),
    ],
)
def test_a_fault_in_a_constitution_is_told_with_its_line(text, told, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        principles.read(file)
    assert told in str(error.value)
    assert "c.yaml:" in str(error.value)


def test_braces_in_an_answer_stay_as_they_are():
    assert principles.filled("{answer} {prompt}", answer="{prompt} {x}", prompt="p") == "{prompt} {x} p"
