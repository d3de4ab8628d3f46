"""Losses and metrics are means over tokens, pairs or answers, however these are divided into batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from trl import SFTConfig

from ftcli.methods import all_methods, get_method
from ftcli.runs import rundir
from ftcli.runs.metrics import read_metrics
from ftcli.worker.commands.eval import evaluate
from ftcli.worker.models.packing_trial import small_model
from ftcli.worker.process.progress import mean_loss
from ftcli.worker.trainers.units import Counted
from ftcli.worker.training.library_configs import load_class
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer, train
from ftcli.worker.training.trainer import make_trainer
from tests.turns import assistant, user
from tests.worker.conftest import MakeSpec, weights, write_rows

ROWS = 7
NOT_MEASURED = ("_second", "_runtime", "_time")
HELD_OUT = [name for name, method in all_methods().items() if not method.rewarded]
"""Every method with a held-out loss."""


def uneven(index: int) -> dict[str, Any]:
    """A pair whose answers differ in length from those of its neighbours."""
    return {
        "prompt": [user(f"Say {index}.")],
        "chosen": [assistant("moon " * (1 + index % 5))],
        "rejected": [assistant("rain, " * (1 + (index * 2) % 3))],
    }


def labelled(index: int) -> dict[str, Any]:
    """An answer that is good or bad."""
    row = uneven(index)
    return {"prompt": row["prompt"], "completion": row["chosen"], "label": index % 3 > 0}


def chat(index: int) -> dict[str, Any]:
    row = uneven(index)
    return {"messages": [*row["prompt"], *row["chosen"]]}


def text(index: int) -> dict[str, Any]:
    return {"text": "moon " * (1 + index % 5) + "rain"}


def prompt(index: int) -> dict[str, Any]:
    return {"prompt": uneven(index)["prompt"]}


MAKES = {"pretrain": text, "sft": chat, "instruct": chat, "distillation": prompt}
BEYOND: dict[str, dict[str, Any]] = {
    "instruct": {"packing": False},
    "pretrain": {"packing": False},
    "distillation": {"max_completion_length": 6},
}
"""Settings without which a method does not start, or would lay all rows into one block."""

Make = Callable[..., Any]


@pytest.fixture
def specified(make_spec: MakeSpec, models: dict[str, Path], tmp_path: Path) -> Make:
    """A spec with so many rows, which are also held out."""

    def make(
        name: str,
        *,
        rows: int = ROWS,
        train: dict[str, Any] | None = None,
        run: dict[str, Any] | None = None,
        **method: Any,
    ) -> Any:
        path = write_rows(tmp_path / f"{name}-{rows}.jsonl", [MAKES.get(name, uneven)(i) for i in range(rows)])
        own = {**BEYOND.get(name, {}), **method}
        if name == "distillation":
            own["teacher_model"] = str(models["qwen3"])
        # Gradients of one unit, and a rate at which they show.
        steps = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "warmup_steps": 0}
        train = {**steps, "lr_scheduler_type": "constant", **(train or {})}
        return make_spec(path, method={"name": name, **own}, eval_path=str(path), train=train, run=run)

    return make


def moved(trainer: Any, seed: int = 5) -> Any:
    """The trainer, its policy no longer its reference."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return trainer


def measured(trainer: Any) -> dict[str, float]:
    """What an evaluation reports."""
    return {name: value for name, value in trainer.evaluate().items() if not name.endswith(NOT_MEASURED)}


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_metrics_do_not_depend_on_the_batch(name, specified, new_run):
    found = []
    for batch in (1, 2, 8):
        spec = specified(name, train={"per_device_eval_batch_size": batch})
        found.append(measured(moved(build_trainer(load(spec, new_run(spec, str(batch)))))))
    assert found[0]["eval_loss"] > 0
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-6)
    assert found[0] == pytest.approx(found[2], rel=1e-5, abs=1e-6)
    assert found[0]["eval_loss"] == pytest.approx(found[2]["eval_loss"], rel=1e-6)


DIVIDED = [
    (name, *divided)
    for name in HELD_OUT
    for divided in ((2, 2), (1, 4), (3, 2))  # 3 × 2 leaves a last batch of one row beside one of three
    # Answers are sampled for a step; and TRL refuses batches of one row.
    if name != "distillation" and divided[0] >= all_methods()[name].min_batch
]


APART = {"tokens_per_second", "elapsed_seconds", "grad_norm", "learning_rate", "peak_resident_gib"}
"""What differs between runs that train alike, or is tested elsewhere."""


@pytest.mark.parametrize(("name", "batch", "times"), DIVIDED)
def test_a_step_is_the_same_however_its_rows_are_divided(name, batch, times, specified, new_run):
    runs = []
    for rows, passes in ((4, 1), (batch, times)):
        settings = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": passes, "max_steps": 2}
        spec = specified(name, rows=4, train=settings)
        runs.append(new_run(spec, f"{rows}x{passes}"))
        train(runs[-1])
    whole, parts = (read_metrics(run / "metrics.jsonl") for run in runs)
    assert len(whole) == len(parts) == 2
    for one, other in zip(whole, parts, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert other["loss_over"] == one["loss_over"]
        for key in one.keys() - APART:
            assert other[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6), key
    ours, theirs = map(weights, runs)
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-6, rtol=1e-5)


def test_an_interval_is_the_mean_over_the_tokens_of_its_steps(specified, new_run):
    # Seven rows in batches of 4 are steps of 4 and 3 rows, of other numbers of tokens.
    runs = []
    for every in (1, 4):
        spec = specified("sft", train={"max_steps": 4, "logging_steps": every})
        runs.append(new_run(spec, str(every)))
        train(runs[-1])
    of_steps, lines = (read_metrics(run / "metrics.jsonl") for run in runs)
    *_, last = lines
    of_last = of_steps[1:]  # the first step is always logged
    assert last["loss_over"] == sum(step["loss_over"] for step in of_last)
    assert len({step["loss_over"] for step in of_last}) > 1
    for key in ("loss", "entropy", "mean_token_accuracy"):
        total = sum(step[key] * step["loss_over"] for step in of_last)
        assert last[key] == pytest.approx(total / last["loss_over"], rel=1e-6)
    assert mean_loss(lines) == pytest.approx(mean_loss(of_steps), rel=1e-6)


def test_lines_that_do_not_say_over_how_much_count_by_their_steps():
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 9.0}, {"step": 4, "loss": 1.0, "loss_over": 50}]
    assert mean_loss(lines) == (2.0 * 1 + 1.0 * 3) / 4
    assert mean_loss([line | {"loss_over": 10} if line["step"] == 1 else line for line in lines]) == 70 / 60


# --- by hand ----------------------------------------------------------------------------------------------------------


def log_probs(model: Any, prompt_ids: list[int], ids: list[int]) -> torch.Tensor:
    """Of the tokens that follow the prompt."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt_ids, *ids]])).logits[0].double().log_softmax(-1)
    at = range(len(prompt_ids) - 1, len(prompt_ids) + len(ids) - 1)
    return torch.stack([logits[i, token] for i, token in zip(at, ids, strict=True)])


@pytest.mark.parametrize("packing", [False, True])
def test_sft_is_the_sum_over_trained_tokens_over_their_number(packing, specified, new_run):
    spec = specified("sft", packing=packing, train={"per_device_eval_batch_size": 3})
    if packing:
        spec = replace(spec, data=replace(spec.data, max_length_tokens=48))
    run = load(spec, new_run(spec, "run"))
    trainer = moved(build_trainer(run))
    found = measured(trainer)
    rows = load(replace(spec, method={"name": "sft", "packing": False}), run.run_dir).data.held_out
    total, number = 0.0, 0
    for row in rows:
        logps = log_probs(trainer.model, row["input_ids"][:1], row["input_ids"][1:])
        trained = torch.tensor(row["labels"][1:]) != -100
        total, number = total - float(logps[trained].sum()), number + int(trained.sum())
    assert len(trainer.eval_dataset) < len(rows) if packing else len(trainer.eval_dataset) == len(rows)
    assert found["eval_loss_over"] == number
    assert found["eval_loss"] == pytest.approx(total / number, rel=1e-5)


def ratios(trainer: Any, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-ratios of the chosen and the rejected answer of a row."""
    return tuple(
        log_probs(trainer.model, row["prompt_ids"], row[side]).sum()
        - log_probs(trainer.ref_model, row["prompt_ids"], row[side]).sum()
        for side in ("chosen_ids", "rejected_ids")
    )  # type: ignore[return-value]


def test_dpo_is_the_mean_over_pairs(specified, new_run):
    spec = specified("dpo", train={"per_device_eval_batch_size": 3})
    trainer = moved(build_trainer(load(spec, new_run(spec, "run"))))
    found = measured(trainer)
    differences = [chosen - rejected for chosen, rejected in (ratios(trainer, row) for row in trainer.eval_dataset)]
    expected = [-float(logsigmoid(trainer.beta * each)) for each in differences]
    assert found["eval_loss"] == pytest.approx(sum(expected) / ROWS, rel=1e-5)
    assert found["eval_rewards/accuracies"] == pytest.approx(sum(each > 0 for each in differences) / ROWS)
    margins = [trainer.beta * float(each) for each in differences]
    assert found["eval_rewards/margins"] == pytest.approx(sum(margins) / ROWS, rel=1e-4)


def test_a_likelihood_beside_dpo_is_a_mean_over_the_tokens_of_chosen_answers(specified, new_run):
    both = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}
    for batch in (2, 8):
        spec = specified("dpo", train={"per_device_eval_batch_size": batch}, **both)
        trainer = moved(build_trainer(load(spec, new_run(spec, str(batch)))))
        of_pairs, total, number = 0.0, 0.0, 0
        for row in trainer.eval_dataset:
            chosen, rejected = ratios(trainer, row)
            of_pairs -= float(logsigmoid(trainer.beta * (chosen - rejected))) / ROWS
            logps = log_probs(trainer.model, row["prompt_ids"], row["chosen_ids"])
            total, number = total - float(logps.sum()), number + len(logps)
        assert measured(trainer)["eval_loss"] == pytest.approx(of_pairs + 0.5 * total / number, rel=1e-5)


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_the_held_out_loss_of_sorted_samples_sorts_all_held_out_pairs(loss, specified, new_run):
    beside = {"loss_type": [loss, "sigmoid"], "loss_weights": [1.0, 0.5], "label_smoothing": 0.1}
    for batch in (1, 2, 8):
        spec = specified("dpo", train={"per_device_eval_batch_size": batch}, **beside)
        trainer = moved(build_trainer(load(spec, new_run(spec, str(batch)))))
        pairs = []
        for row in trainer.eval_dataset:
            (chosen, ref_chosen), (rejected, ref_rejected) = (
                [
                    float(log_probs(model, row["prompt_ids"], row[side]).sum())
                    for model in (trainer.model, trainer.ref_model)
                ]
                for side in ("chosen_ids", "rejected_ids")
            )
            moves = (chosen - ref_chosen, rejected - ref_rejected)
            sides = (chosen - rejected, ref_chosen - ref_rejected) if loss == "aot" else moves
            pairs.append((*sides, moves[0] - moves[1]))
        first, second, margins = (torch.tensor(values, dtype=torch.float64) for values in zip(*pairs, strict=True))
        sorted_apart = trainer.beta * (first.sort().values - second.sort().values)
        assert not torch.equal(sorted_apart, trainer.beta * (first - second))

        def smooth(margin: torch.Tensor) -> float:
            return float((-0.9 * logsigmoid(margin) - 0.1 * logsigmoid(-margin)).mean())

        expected = smooth(sorted_apart) + 0.5 * smooth(trainer.beta * margins)
        assert measured(trainer)["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_ktos_reference_point_is_that_of_all_held_out_rows(specified, new_run, tmp_path):
    spec = specified("kto", train={"per_device_eval_batch_size": 3})
    path = write_rows(tmp_path / "labelled.jsonl", [labelled(index) for index in range(ROWS)])
    spec = replace(spec, data=replace(spec.data, eval_path=str(path)))
    trainer = moved(build_trainer(load(spec, new_run(spec, "run"))), seed=1)
    found = measured(trainer)
    rows = [(row, "chosen_ids") for row in trainer.eval_dataset if row["chosen_ids"]]
    rows += [(row, "rejected_ids") for row in trainer.eval_dataset if row["rejected_ids"]]
    mismatched = []
    for (row, _), (other, side) in zip(rows, [rows[-1], *rows], strict=False):
        prompt_ids, ids = row["prompt_ids"], other[side]
        own, reference = (log_probs(model, prompt_ids, ids).sum() for model in (trainer.model, trainer.ref_model))
        mismatched.append(float(own - reference))
    point = max(0.0, sum(mismatched) / ROWS)
    assert point > 0
    losses = []
    for row, side in rows:
        own, reference = (
            log_probs(model, row["prompt_ids"], row[side]).sum() for model in (trainer.model, trainer.ref_model)
        )
        sign, weight = (1, trainer.desirable_weight) if side == "chosen_ids" else (-1, trainer.undesirable_weight)
        losses.append(weight * float(1 - torch.sigmoid(sign * trainer.beta * (own - reference - point))))
    assert found["eval_kl"] == pytest.approx(point, rel=1e-4)
    assert found["eval_loss"] == pytest.approx(sum(losses) / ROWS, rel=1e-5)


@pytest.mark.parametrize("name", HELD_OUT)
def test_a_later_evaluation_reports_the_loss_of_the_run(name, specified, new_run, tmp_path, make_spec):
    spec = specified(name, train={"max_steps": 1, "per_device_eval_batch_size": 3}, run={"score_rows": 4})
    if name == "kto":  # labels that the rows it trained on hold in other numbers
        rows = write_rows(tmp_path / "labelled.jsonl", [labelled(index) for index in range(ROWS)])
        held_out = write_rows(tmp_path / "others.jsonl", [{**labelled(i), "label": i == 0} for i in range(3)])
        spec = replace(spec, data=replace(spec.data, path=str(rows), eval_path=str(held_out)))
    run = new_run(spec, "run")
    train(run)
    expected, found = rundir.read_result(run)["eval_loss"], evaluate({"run": str(run), "data": None, "rows": None})
    assert expected["before"] > 0
    assert expected["after"] > 0
    assert found["before"]["eval_loss"] == pytest.approx(expected["before"], rel=1e-5)
    assert found["after"]["eval_loss"] == pytest.approx(expected["after"], rel=1e-5)


def test_a_class_that_is_not_named_for_causal_lm_has_the_loss_of_the_tokens_that_are_predicted(
    specified, new_run, tmp_path, tokenizer
):
    # transformers counts the first token of each row of such a class, and none predicts it.
    config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    settings = {"max_steps": 1, "learning_rate": 1e-9, "per_device_train_batch_size": ROWS}
    spec = specified("pretrain", train=settings, run={"score_rows": 1})
    run = new_run(replace(spec, model=replace(spec.model, name_or_path=str(tmp_path / "gpt2"))), "run")
    train(run)
    (line,) = read_metrics(run / "metrics.jsonl")
    result = rundir.read_result(run)
    assert line["loss_over"] == result["ledger"]["train"]["trained_tokens"]
    assert line["loss"] == pytest.approx(result["eval_loss"]["after"], rel=1e-2)  # dropout


def test_the_held_out_loss_of_a_mixture_is_that_of_its_tokens(tmp_path, tokenizer):
    model = small_model(AutoConfig.for_model("qwen3_moe"))
    config = SFTConfig(
        output_dir=str(tmp_path), max_steps=1, use_cpu=True, bf16=False, report_to="none", remove_unused_columns=False,
        gradient_checkpointing=False, disable_tqdm=True, save_strategy="no", per_device_eval_batch_size=2,
    )  # fmt: skip
    rows = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in ([5, 9, 17, 30, 4, 8], [7, 6, 3], [9, 9])])
    trainer = make_trainer(get_method("sft"), config, model, tokenizer, train=rows, held_out=rows)
    assert trainer.aux_loss_enabled
    total = sum(-float(log_probs(trainer.model, row["input_ids"][:1], row["input_ids"][1:]).sum()) for row in rows)
    found = measured(trainer)
    assert found["eval_loss"] == pytest.approx(total / 8, rel=1e-5)
    assert "eval_aux_loss" not in found
    assert trainer.aux_loss_enabled


# --- declarations -----------------------------------------------------------------------------------------------------


def test_every_method_with_a_held_out_loss_says_what_it_is_a_mean_over():
    for name in HELD_OUT:
        trainer = load_class(all_methods()[name].trainer)
        assert issubclass(trainer, Counted), name
        assert trainer.loss_unit == all_methods()[name].loss_over
    assert {name for name, method in all_methods().items() if method.loss_over} == set(HELD_OUT)
