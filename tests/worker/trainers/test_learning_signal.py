"""A run that samples its own answers says early when it cannot learn from them; a healthy one says nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

from ftcli.cli.render.summary import summary
from ftcli.runs import rundir
from ftcli.worker.trainers.rl.learning_signal import figures_of, findings
from ftcli.worker.training.run import train
from tests.worker import rl
from tests.worker.rl import prompts_file, rl_spec, sampling, taught, whole_and_resumed

METHODS = ("ppo", "grpo", "rloo")
RIGHT = {"regex": {"pattern": ""}}
WRONG = {"regex": {"pattern": "purple"}}


@pytest.fixture
def trained(make_spec, new_run, tmp_path, once):
    """A short run of a method on a model that picks one of four words, and its result."""

    def run(name, words=1, steps=2, **method):
        model, file = taught(once, make_spec, words), prompts_file(tmp_path, words, rows=64)
        spec = rl_spec(make_spec, file, model, sampling(name, **method), per_device_train_batch_size=64)
        spec = replace(spec, train={**spec.train, "max_steps": steps * (2 if name == "ppo" else 1)})
        return train(new_run(spec, f"run{len(list(tmp_path.iterdir()))}"))

    return run


def texts(result):
    return [(each["name"], each["message"], each["fix"]) for each in result["warnings"]]


@pytest.mark.parametrize("name", METHODS)
def test_a_healthy_run_is_not_warned(name, trained, capfd):
    result = trained(name, reward_functions={f"{rl.__file__}:arms": 1.0})  # a file; elsewhere here it is a module
    assert result["warnings"] == []
    assert "warning" not in capfd.readouterr().err


@pytest.mark.parametrize("name", METHODS)
def test_answers_that_are_all_right_are_named_in_the_first_step(name, trained, capfd):
    result = trained(name, rewards=RIGHT, temperature=0.5)
    [(kind, message, fix)] = texts(result)
    assert kind == "all_right"
    assert message == (
        "the policy cannot learn from its answers: all answers have the reward 1, the highest "
        "(64 answers, mean reward 1 ± 0, 0% cut off at 8 tokens)"
    )
    assert fix.startswith("give harder prompts (data.path)")
    assert "raise method.temperature (0.5)" in fix
    assert ("method.num_generations, 8" in fix) == (name != "ppo")
    said = capfd.readouterr().err
    assert said.count("warning: since step 1 the policy cannot learn") == 1  # and not again in the second window


@pytest.mark.parametrize("name", METHODS)
def test_answers_that_are_all_wrong_are_named(name, trained):
    [(kind, message, fix)] = texts(trained(name, rewards=WRONG))
    assert kind == "all_wrong"
    assert "all answers have the reward 0, the lowest" in message
    assert fix.startswith("give easier prompts (data.path), or start from a model that was trained on right answers")
    assert "temperature" not in fix  # which is 1 already


@pytest.mark.parametrize("name", METHODS)
def test_a_reward_without_variance_is_named(name, trained):
    [(kind, message, fix)] = texts(trained(name, reward_functions={f"{__name__}:constant": 1.0}))
    assert kind == "no_variance"
    assert "all answers have the reward 0.25 (" in message
    assert fix.startswith(f"choose a reward that tells answers apart; this run's is {__name__}:constant")


@pytest.mark.parametrize("name", METHODS)
def test_answers_that_are_cut_off_are_named(name, trained):
    """Three words do not fit into two tokens."""
    found = texts(trained(name, words=3, longest=2, reward_functions={"tests.worker.rl:arms": 1.0}))
    [(message, fix)] = [each[1:] for each in found if each[0] == "cut_off"]
    option = "max_new_tokens" if name == "ppo" else "max_completion_length"
    assert re.match(rf"9\d% of 64 answers are cut off at method\.{option}=2, and are rewarded", message)
    assert fix.startswith(f"raise method.{option} (2)")


def constant(completions, **_):
    """The same for every answer."""
    return [0.25] * len(completions)


def test_what_is_learned_to_the_end_is_a_note_and_no_warning(trained, capfd):
    result = trained("grpo", steps=60, reward_functions={"tests.worker.rl:arms": 1.0}, top_p=0.99)
    assert {each["name"] for each in result["warnings"]} == {"all_right"}
    assert result["warnings"][0]["first_step"] > 2
    said = capfd.readouterr().err
    assert "warning" not in said
    assert "note: since step" in said
    assert "the policy has nothing left to learn" in said
    assert "fix: end the run here, or give harder prompts" in said


def test_the_report_tells_what_was_said_and_metrics_have_the_figures(trained, tmp_path, capsys):
    result = trained("grpo", rewards=WRONG)
    run = next(tmp_path.glob("run*"))
    summary(run, json.loads((run / rundir.RESULT).read_text(encoding="utf-8")))
    assert re.search(r"warning +from step 1 to the end: the policy cannot learn", capsys.readouterr().out)
    lines = [json.loads(line) for line in (run / rundir.METRICS).read_text(encoding="utf-8").splitlines()]
    assert [line["signal/groups_wrong"] for line in lines if "loss" in line] == [1.0, 1.0]
    assert result["warnings"][0]["figures"]["groups"] == 8


def test_a_resumed_run_says_it_once(make_spec, new_run, tmp_path, once, capfd):
    """Windows of 64 answers, 16 a step: the checkpoint of step 3 lies within the first."""
    model, file = taught(once, make_spec, 1), prompts_file(tmp_path, 1)
    settings = {"max_steps": 9, "save_strategy": "steps", "save_steps": 3}
    spec = rl_spec(make_spec, file, model, sampling("grpo", rewards=WRONG, num_generations=2), **settings)
    runs = whole_and_resumed(spec, new_run)
    found = [json.loads((run / rundir.RESULT).read_text(encoding="utf-8"))["warnings"] for run in runs]
    assert found[0] == found[1]
    assert [each["first_step"] for each in found[0]] == [1]


def shown(rewards, ended=1.0, bounds=(0.0, 1.0), same=False):
    values = torch.tensor(rewards)
    digests = torch.zeros_like(values) if same else torch.arange(values.numel()).view_as(values)
    return figures_of(values, torch.arange(values.numel()).view_as(values) < ended * values.numel(), digests, bounds)


def test_shares_are_of_groups():
    # four groups: all right, all wrong, all of one other reward, and one to learn from
    found = shown([[1.0, 1.0], [0.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    assert (found.right, found.wrong, found.equal, found.silent) == (0.25, 0.25, 0.25, 0.75)
    assert list(findings(found)) == []


def test_a_mixture_of_all_right_and_all_wrong_is_no_variance():
    assert list(findings(shown([[1.0, 1.0]] * 5 + [[0.0, 0.0]] * 5))) == ["no_variance"]
    assert list(findings(shown([[1.0, 1.0]] * 9 + [[0.0, 1.0]]))) == ["all_right"]


def test_rewards_of_unknown_bounds_are_compared_with_those_seen():
    found = shown([[3.0, 3.0], [-2.0, -2.0], [1.0, 2.0]], bounds=(-2.0, 3.0))
    assert (found.right, found.wrong) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    one = shown([[3.0, 3.0], [3.0, 3.0]], bounds=(3.0, 3.0))
    assert (one.right, one.wrong, one.equal) == (0, 0, 1)


def test_what_lasts_ends_only_when_it_clearly_has():
    groups = [[0.0, 0.0]] * 8 + [[0.0, 1.0]] * 2  # 80%
    assert list(findings(shown(groups))) == []
    assert list(findings(shown(groups), ["all_wrong"])) == ["all_wrong"]
    assert list(findings(shown(groups[3:]), ["all_wrong"])) == []  # 5 of 7
    assert list(findings(shown([[0.0, 1.0]] * 5, ended=0.6))) == []
    assert list(findings(shown([[0.0, 1.0]] * 5, ended=0.6), ["cut_off"])) == ["cut_off"]
