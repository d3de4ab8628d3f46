"""On-policy distillation: a student comes to say what its teacher says, and a foreign teacher is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ftcli.core.errors import ConfigError
from ftcli.worker.commands.eval import evaluate
from ftcli.worker.models.load import load_trained
from ftcli.worker.training.load import load, make_teacher
from ftcli.worker.training.run import build_trainer, train
from tests.worker.conftest import LORA, same_weights, write_rows
from tests.worker.rl import prompt, prompts_file, rl_spec, taught, whole_and_resumed


def divergence(student: Path, teacher: Path, spec) -> float:
    """KL of the student's first word from the teacher's, in nats."""
    ids = torch.tensor([load(spec, student.parent).encoder.prompt_ids(prompt("Pick."))])
    with torch.no_grad():
        ours, theirs = (
            load_trained(replace(spec.model, name_or_path=str(folder)), seed=0, device="cpu")(input_ids=ids)
            .logits[0, -1].log_softmax(0)
            for folder in (student, teacher)
        )  # fmt: skip
    return float((ours.exp() * (ours - theirs)).sum())


def distil(beta: float, teacher: Path) -> dict[str, object]:
    """Settings of the method."""
    return {"name": "distillation", "teacher_model": str(teacher), "max_completion_length": 4, "beta": beta}


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_student_comes_to_say_what_its_teacher_says(beta, make_spec, new_run, tmp_path, models, once):
    """The teacher picks one of four words, the student starts from random weights."""
    teacher, file = taught(once, make_spec, 1), prompts_file(tmp_path, 1)
    spec = rl_spec(make_spec, file, models["llama"], distil(beta, teacher), learning_rate=5e-3, max_steps=120)
    run = new_run(spec, "student")
    train(run)
    assert divergence(run / "model", teacher, spec) < 0.05


def by_formula(beta: float, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The generalised Jensen-Shannon divergence of each position (Agarwal et al. 2024, arXiv:2306.13649, equation 1 and
    section 2): forward KL at β = 0, reverse KL at β = 1.

    Args:
        student: log-probabilities of every token at N positions, (N, V); the teacher's alike.
    """

    def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return (p.exp() * (p - q)).sum(-1)

    if beta in (0.0, 1.0):
        return divergence(student, teacher) if beta else divergence(teacher, student)
    mixture = (beta * teacher.exp() + (1 - beta) * student.exp()).log()
    return beta * divergence(teacher, mixture) + (1 - beta) * divergence(student, mixture)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_loss_is_its_papers(beta, make_spec, new_run, tmp_path, models, once):
    teacher, file = taught(once, make_spec, 1), prompts_file(tmp_path, 1)
    spec = rl_spec(make_spec, file, models["llama"], distil(beta, teacher), per_device_train_batch_size=4)
    trainer = build_trainer(load(spec, new_run(spec, "run")))
    model = trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(model, dict(inputs), num_items_in_batch=inputs["num_items_in_batch"])
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    width = inputs["completion_ids"].size(1)

    def log_probs(of: torch.nn.Module) -> torch.Tensor:
        return of(input_ids=ids, attention_mask=seen).logits[:, -width - 1 : -1].log_softmax(-1)

    with torch.no_grad():
        theirs = log_probs(trainer.teacher_model)
    mask = inputs["completion_mask"]
    expected = (by_formula(beta, log_probs(model), theirs) * mask).sum() / mask.sum()
    assert loss.item() == pytest.approx(expected.item(), abs=2e-6)
    expected.backward()
    for name, parameter in model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("adapter", [False, True])
def test_an_interrupted_run_resumes_to_the_same_weights(adapter, make_spec, new_run, tmp_path, models):
    rows = [{"prompt": prompt(f"Say {i}."), "answer": "red"} for i in range(18)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 4}
    settings["gradient_accumulation_steps"] = 2
    spec = rl_spec(make_spec, file, models["llama"], distil(0.5, models["llama"]), **settings)
    spec = replace(spec, peft=LORA) if adapter else spec
    assert same_weights(*whole_and_resumed(spec, new_run))


def test_every_row_is_answered_in_an_epoch_and_the_teacher_stays_as_it_is(make_spec, new_run, tmp_path, models):
    rows = [{"prompt": prompt(f"Say {i}.")} for i in range(9)]
    spec = rl_spec(make_spec, write_rows(tmp_path / "rows.jsonl", rows), models["llama"], distil(1.0, models["llama"]))
    spec = replace(spec, train={**spec.train, "max_steps": 3, "per_device_train_batch_size": 4})
    trainer = build_trainer(load(spec, new_run(spec, "run")))
    before = {name: value.clone() for name, value in trainer.teacher_model.state_dict().items()}
    assert set(trainer._get_train_sampler()) == set(range(9))
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in trainer.teacher_model.state_dict().items())


def test_a_teacher_with_other_tokens_is_refused(make_spec, new_run, tmp_path, models):
    file = prompts_file(tmp_path, 1)
    spec = rl_spec(make_spec, file, models["llama"], distil(1.0, models["llama"]))
    run = load(spec, new_run(spec, "run"))
    run.tokenizer.add_tokens(["entirely-new"])
    with pytest.raises(ConfigError, match="has another vocabulary than"):
        make_teacher(spec, run.encoder)


def test_a_finished_student_is_measured_against_its_teacher(make_spec, new_run, tmp_path, models, once):
    teacher, file = taught(once, make_spec, 1), prompts_file(tmp_path, 1)
    spec = rl_spec(make_spec, file, models["llama"], distil(1.0, teacher), learning_rate=1e-2, max_steps=40)
    spec = replace(spec, data=replace(spec.data, eval_share=0.25))
    run = new_run(spec, "run")
    train(run)
    found = evaluate({"run": str(run), "data": None, "rows": None, "score_rows": None})
    assert found["rows"] == 4
    assert 0 <= found["after"]["eval_loss"] < found["before"]["eval_loss"]
