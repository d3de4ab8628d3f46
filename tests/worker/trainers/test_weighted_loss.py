"""Weights of turns and rows by hand: Σ w·l / Σ w for every method that takes them, however its rows are batched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid

from ftcli.core.errors import ConfigError
from ftcli.methods import all_methods
from ftcli.settings.fields.field_table import FIELDS
from ftcli.settings.library_values import values_of
from ftcli.worker.trainers.weighted_loss import WeighedRows, WeighedTokens
from ftcli.worker.training.library_configs import load_class
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer, train
from tests.turns import assistant, user
from tests.worker.conftest import MakeSpec, pair_of_answers, weights, write_rows
from tests.worker.trainers.test_dpo import of_one, reference  # noqa: F401 - a fixture
from tests.worker.trainers.test_reference_free import PAIRS, gradients, trainer_of

CONVERSATIONS = [
    {"messages": [user("Say red."), assistant("red", weight=0.5), user("And blue."), assistant("blue, blue and blue")]},
    {"messages": [user("Say tree."), assistant("tree tree")], "weight": 3},
    {"messages": [user("Say moon."), assistant("moon"), user("More."), assistant("moon, moon", weight=2)], "weight": 2},
    {"messages": [user("Say sun."), assistant("sun")]},
]
ROW_WEIGHTS = [0.5, 3.0, 1.0]
LOSSES = values_of(FIELDS["method.loss_type@DPOConfig"].choices)
OF_PAIRS = [loss for loss in LOSSES if not loss.startswith("aot")]


def sft_trainer(make_spec: MakeSpec, new_run: Any, path: Path, name: str = "run", **more: Any) -> Any:
    spec = make_spec(path, **more)
    spec = replace(spec, train={**spec.train, "gradient_checkpointing": False})
    return build_trainer(load(spec, new_run(spec, name)))


def batch_of_all(trainer: Any) -> dict[str, Any]:
    return dict(trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))]))


def by_hand(model: Any, rows: Any) -> tuple[torch.Tensor, float]:
    """Σ w·l and Σ w over the trained tokens of unpacked rows."""
    total, weight = torch.zeros(()), 0.0
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), row["labels"]
        log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
        for at in range(1, len(labels)):
            if labels[at] != -100:
                own = row["weights"][at] if row.get("weights") else 1.0
                total, weight = total - own * log_probs[at - 1, labels[at]], weight + own
    return total, weight


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_trained_token_weighs_its_turns_weight_times_its_rows(make_spec, new_run, tmp_path, tokenizer):
    trainer = sft_trainer(make_spec, new_run, write_rows(tmp_path / "rows.jsonl", CONVERSATIONS))
    weighed = []
    for row in trainer.train_dataset:
        given = row["weights"] or [1.0] * len(row["labels"])
        trained = [(w, i) for w, i, label in zip(given, row["input_ids"], row["labels"], strict=True) if label != -100]
        texts = {weight: tokenizer.decode([i for w, i in trained if w == weight]) for weight, _ in trained}
        weighed.append({weight: text.replace("<|im_end|>", "").strip() for weight, text in texts.items()})
    assert [set(row) for row in weighed] == [{0.5, 1.0}, {3.0}, {2.0, 4.0}, {1.0}]
    assert weighed[0][0.5].startswith("red")
    assert "blue, blue and blue" in weighed[0][1.0]
    assert "moon, moon" in weighed[2][4.0]


@pytest.mark.parametrize("dft", [False, True])
def test_sft_is_the_weighted_mean_over_trained_tokens(dft, make_spec, new_run, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", CONVERSATIONS)
    method = {"loss_type": "dft"} if dft else {}
    trainer = sft_trainer(make_spec, new_run, path, method=method)
    batch = batch_of_all(trainer)
    trainer.model.train()
    count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=count)
    total, weight = by_hand(trainer.model, trainer.train_dataset)
    assert float(count) == pytest.approx(weight, rel=1e-6)
    if dft:  # −p·log p with p constant: every term is multiplied by its own probability
        logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        log_probs = logits.log_softmax(-1).gather(-1, batch["labels"][:, 1:].clamp(min=0)[..., None])[..., 0]
        own = batch["weights"][:, 1:] * (batch["labels"][:, 1:] != -100)
        total = -(own * log_probs * log_probs.exp()).sum()
    assert loss.item() == pytest.approx(total.item() / weight, rel=1e-5)
    trainer.model.eval()
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(total.item() / weight, rel=1e-5)


def test_label_smoothing_is_weighted_alike(make_spec, new_run, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", CONVERSATIONS)
    trainer = sft_trainer(make_spec, new_run, path, train={"label_smoothing_factor": 0.2})
    batch = batch_of_all(trainer)
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    log_probs, labels = logits.log_softmax(-1), batch["labels"][:, 1:]
    losses = -0.8 * log_probs.gather(-1, labels.clamp(min=0)[..., None])[..., 0] - 0.2 * log_probs.mean(-1)
    own = batch["weights"][:, 1:] * (labels != -100)
    assert loss.item() == pytest.approx(((losses * own).sum() / own.sum()).item(), rel=1e-5)
    # All weights 0.5 is the mean of transformers' own smoother.
    plain = {name: value for name, value in batch.items() if name != "weights"}
    halves = {**batch, "weights": torch.full_like(batch["weights"], 0.5)}
    expected = trainer.compute_loss(trainer.model, dict(plain)).item()
    assert trainer.compute_loss(trainer.model, halves).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_packed_rows_have_the_loss_of_unpacked_ones(strategy, make_spec, new_run, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", CONVERSATIONS)
    packs = {"packing": True, "packing_strategy": strategy}
    trainer = sft_trainer(make_spec, new_run, path, "packed", method=packs, max_length_tokens=256)
    rows = sft_trainer(make_spec, new_run, path, "rows").train_dataset
    assert len(trainer.train_dataset) < len(rows)
    batch = batch_of_all(trainer)
    trainer.model.eval()
    total, weight = by_hand(trainer.model, rows)
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(total.item() / weight, rel=1e-5)


def test_text_is_weighted_by_its_row(make_spec, new_run, tmp_path):
    rows = [{"text": "red house", "weight": 0.25}, {"text": "blue tree and river"}]
    for method in ("sft", "pretrain"):
        path = write_rows(tmp_path / "rows.jsonl", rows)
        trainer = sft_trainer(make_spec, new_run, path, method, method={"name": method})
        trainer.model.eval()
        total, weight = by_hand(trainer.model, trainer.train_dataset)
        assert trainer.compute_loss(trainer.model, batch_of_all(trainer)).item() == pytest.approx(
            total.item() / weight, rel=1e-5
        )


# --- one optimiser step -----------------------------------------------------------------------------------------------

ONE_STEP = {"max_steps": 1, "per_device_train_batch_size": 1, "optim": "sgd", "max_grad_norm": 0.0, "warmup_steps": 0}


def chat(index: int) -> dict[str, Any]:
    return {"messages": [user(f"Say {index}."), assistant("moon " * (1 + index))]}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["sft", "dpo", "ipo", "orpo", "cpo", "simpo", "reward"])
def test_a_row_of_weight_2_trains_as_two_rows(name, streaming, make_spec, new_run, tmp_path):
    one, other = [(chat if name == "sft" else pair_of_answers)(index) for index in (1, 4)]
    once = write_rows(tmp_path / "once.jsonl", [{**one, "weight": 2}, other])
    twice = write_rows(tmp_path / "twice.jsonl", [one, one, other])
    runs = []
    for path, rows in ((once, 2), (twice, 3)):
        steps = {**ONE_STEP, "gradient_accumulation_steps": rows}
        more = {"streaming": True, "shuffle_buffer_rows": 1} if streaming else {}
        runs.append(new_run(make_spec(path, method={"name": name}, train=steps, **more), path.stem))
        train(runs[-1])
    ours, theirs = map(weights, runs)
    plain = new_run(make_spec(write_rows(tmp_path / "plain.jsonl", [one, other]), method={"name": name},
                              train={**ONE_STEP, "gradient_accumulation_steps": 2}), "plain")  # fmt: skip
    train(plain)
    unweighted = weights(plain)
    if name != "reward":  # its new head starts from the seed, and all three from the same one
        assert any(not torch.allclose(ours[key], unweighted[key], atol=1e-7) for key in ours)
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["sft", "dpo", "kto", "reward"])
def test_weights_of_1_train_bit_for_bit_as_none(name, make_spec, new_run, tmp_path):
    rows = [(chat if name == "sft" else pair_of_answers)(index) for index in range(6)]
    runs = []
    for each in ("none", "ones"):
        path = write_rows(
            tmp_path / f"{each}.jsonl", [{**row, "weight": 1.0} if each == "ones" else row for row in rows]
        )
        runs.append(new_run(make_spec(path, method={"name": name}, train={"max_steps": 2}), each))
        train(runs[-1])
    ours, theirs = map(weights, runs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(models, tokenizer, tmp_path, request):
    """Loss and gradients of rows as one weighted batch of one step."""

    def measure(name: str, rows: list[dict[str, Any]], **settings: Any) -> tuple[float, dict[str, torch.Tensor]]:
        own = request.getfixturevalue("reference") if name in ("dpo", "ipo", "kto") else None
        trainer = trainer_of(name, models, tokenizer, tmp_path, reference=own, **settings)
        trainer.train_dataset = Dataset.from_list(rows)
        trainer.take_weights()
        trainer.model.train()
        batch = dict(trainer.data_collator([dict(row) for row in rows]))
        trainer._get_num_items_in_batch([batch], torch.device("cpu"))
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        return loss.item(), gradients(trainer.model)

    return measure


def weighed(given: list[float]) -> list[dict[str, Any]]:
    return [{**row, "row_weight": weight} for row, weight in zip(PAIRS, given, strict=True)]


CASES = [*(("dpo", of_one(loss)) for loss in OF_PAIRS), ("ipo", {}), ("simpo", {}),
         ("dpo", {"label_smoothing": 0.1}), ("dpo", {"use_weighting": True}),
         ("dpo", {"ld_alpha": 0.5}), ("simpo", {"label_smoothing": 0.1})]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), [case for case in CASES if case[1].get("loss_type") != ["sft"]])
def test_a_preference_loss_is_the_weighted_mean_of_its_pairs(name, settings, measured):
    alone = [measured(name, [row], **settings) for row in PAIRS]
    loss, grads = measured(name, weighed(ROW_WEIGHTS), **settings)
    # (0.5·l₁ + 3·l₂ + 1·l₃) / 4.5
    assert loss == pytest.approx(sum(w * own for w, (own, _) in zip(ROW_WEIGHTS, alone, strict=True)) / 4.5, abs=1e-5)
    for key, gradient in grads.items():
        expected = sum(w * own[key] for w, (_, own) in zip(ROW_WEIGHTS, alone, strict=True)) / 4.5
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "settings"),
    [*CASES, ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}), ("orpo", {}), ("cpo", {}),
     ("kto", {}), ("kto", {"loss_type": "apo_zero_unpaired"})],
)  # fmt: skip
def test_equal_weights_are_the_plain_mean(name, settings, measured):
    loss, grads = measured(name, weighed([0.5] * 3), **settings)
    plain, expected = measured(name, PAIRS, **settings)
    assert loss == pytest.approx(plain, abs=1e-5)
    for key, gradient in grads.items():
        torch.testing.assert_close(gradient, expected[key], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("name", "share"), [("dpo", 1.0), ("cpo", 1.0), ("orpo", 1.0)])
def test_a_likelihood_of_chosen_answers_is_weighted_by_their_rows(name, share, measured):
    # Of n chosen tokens each, l is the mean over all: a row adds n·l to 3 + 2 + 5 tokens, at w / (4.5 / 3).
    settings = {"loss_type": ["sft"]} if name == "dpo" else {}
    tokens = [len(row["chosen_ids"]) for row in PAIRS]
    relative = [weight / 1.5 for weight in ROW_WEIGHTS]
    likelihood = [measured("dpo", [row], loss_type=["sft"])[0] for row in PAIRS]
    expected = sum(r * n * own for r, n, own in zip(relative, tokens, likelihood, strict=True)) / sum(tokens)
    if name != "dpo":
        whole = [measured(name, [row])[0] for row in PAIRS]
        expected += sum(r * (a - own) for r, a, own in zip(relative, whole, likelihood, strict=True)) / 3
    assert measured(name, weighed(ROW_WEIGHTS), **settings)[0] == pytest.approx(share * expected, abs=1e-5)


def test_kto_weighs_each_answer_of_a_row(measured):
    rows = [{**PAIRS[0], "rejected_ids": []}, {**PAIRS[1], "chosen_ids": []}, PAIRS[2]]
    settings = {"loss_type": "apo_zero_unpaired", "desirable_weight": 1.0, "undesirable_weight": 2.0}
    alone = [measured("kto", [row], **settings)[0] for row in rows]
    given = [{**row, "row_weight": weight} for row, weight in zip(rows, ROW_WEIGHTS, strict=True)]
    # Four sequences, of weights 0.5, 1, 3 and 1; the pair's own loss is the mean of its two.
    expected = (0.5 * alone[0] + 3 * alone[1] + 2 * alone[2]) / 5.5
    assert measured("kto", given, **settings)[0] == pytest.approx(expected, abs=1e-5)


def test_a_reward_model_weighs_pairs_with_their_margins(make_spec, new_run, tmp_path):
    rows = [{**pair_of_answers(i), "gap": i / 2, "weight": w} for i, w in enumerate(ROW_WEIGHTS)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    spec = make_spec(path, method={"name": "reward", "center_rewards_coefficient": 0.3}, margin_column="gap")
    trainer = build_trainer(load(spec, new_run(spec, "run")))
    batch = batch_of_all(trainer)
    trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.model.train()
    with torch.no_grad():
        scores = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
        loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    chosen, rejected = scores.chunk(2)
    losses = -logsigmoid(chosen - rejected - torch.tensor([0.0, 0.5, 1.0])) + 0.3 * (chosen + rejected) ** 2
    assert loss == pytest.approx(((losses * torch.tensor(ROW_WEIGHTS)).sum() / 4.5).item(), abs=1e-6)


@pytest.mark.parametrize("method", ["sft", "reward", "dpo", "kto", "orpo"])
def test_batches_are_padded_to_the_multiple_that_is_asked_for(method, make_spec, new_run, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [pair_of_answers(i) for i in range(3)])
    if method == "sft":
        path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "2 + 2", "completion": "4"}] * 3)
    packing = {"packing": False} if method == "sft" else {}
    spec = make_spec(path, method={"name": method, "pad_to_multiple_of": 32, **packing})
    assert batch_of_all(build_trainer(load(spec, new_run(spec, "run"))))["input_ids"].shape[1] % 32 == 0


def test_held_out_pairs_are_weighted_over_the_whole_set(make_spec, new_run, tmp_path):
    rows = [{**pair_of_answers(i), "weight": w} for i, w in enumerate(ROW_WEIGHTS)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    # Batches of 2 and 1: Σ w·l / Σ w of all three, whatever batch they are in.
    spec = make_spec(path, method={"name": "simpo"}, eval_path=str(path), train={"per_device_eval_batch_size": 2})
    trainer = build_trainer(load(spec, new_run(spec, "run")))
    trainer.model.eval()
    with torch.no_grad():
        alone = []
        for i in range(3):
            row = {name: value for name, value in trainer.eval_dataset[i].items() if name != "row_weight"}
            batch = dict(trainer.data_collator([row]))
            del batch["row_weight"]
            alone.append(trainer.compute_loss(trainer.model, batch).item())
    expected = sum(w * own for w, own in zip(ROW_WEIGHTS, alone, strict=True)) / 4.5
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_a_loss_that_sorts_the_answers_of_a_batch_refuses_weights(loss, make_spec, new_run, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{**pair_of_answers(0), "weight": 2}, pair_of_answers(1)])
    spec = make_spec(path, method={"name": "dpo", "loss_type": [loss]})
    with pytest.raises(ConfigError, match=f"the rows have weights, and the loss {loss} sorts"):
        build_trainer(load(spec, new_run(spec, "run")))


def test_every_method_that_declares_weights_has_a_trainer_that_takes_them():
    takes = {"tokens": WeighedTokens, "rows": WeighedRows}
    for method in all_methods().values():
        trainer = load_class(method.trainer)
        assert issubclass(trainer, WeighedTokens | WeighedRows) == (method.weights is not None), method.name
        if method.weights is not None:
            assert issubclass(trainer, takes[method.weights]), method.name
