"""What is not finite ends a run at its step, with the rows, before the optimiser and whatever is logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, set_seed

from ftcli.core.errors import NotFinite
from ftcli.runs import rundir
from ftcli.runs.metrics import read_metrics
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA, conversation, pair_of_answers, write_rows
from tests.worker.rl import prompt

POISON = "zzz"
RARELY = {"logging_steps": 1000, "save_strategy": "steps", "save_steps": 1}
"""A cadence that logs nothing on its own."""


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> dict[str, Path]:
    """Models that compute no number for rows with a certain word, and are sound otherwise."""
    folders = {}
    for kind in (LlamaForCausalLM, LlamaForSequenceClassification):
        set_seed(7)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None, tie_word_embeddings=False, num_labels=1,
        )  # fmt: skip
        model = kind(config)
        sound = {token for i in range(40) for token in tokenizer(str((conversation(i), pair_of_answers(i)))).input_ids}
        with torch.no_grad():
            [broken, *_] = set(tokenizer(POISON).input_ids) - sound
            model.get_input_embeddings().weight[broken] = torch.nan
        folder = folders[kind.__name__] = tmp_path_factory.mktemp(kind.__name__)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


def rows_of(method: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Sixteen rows for a method, and one that breaks the model."""
    if method == "sft":
        return [conversation(i) for i in range(16)], {"messages": [*prompt("Say."), answer(POISON)]}
    rows = [pair_of_answers(i) for i in range(16)]
    broken = {**rows[0], "chosen": [answer(POISON)]}
    if method != "kto":
        return rows, broken
    labels = [{"prompt": r["prompt"], "completion": r["chosen"], "label": i % 2 == 0} for i, r in enumerate(rows)]
    return labels, {**labels[0], "completion": [answer(POISON)]}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "orpo", "reward"])
def test_a_row_that_breaks_the_loss_is_named_at_its_step(method, poisoned, make_spec, new_run, tmp_path):
    good, bad = rows_of(method)
    file = write_rows(tmp_path / "rows.jsonl", [*good[:11], bad, *good[11:]])
    kind = "LlamaForSequenceClassification" if method == "reward" else "LlamaForCausalLM"
    spec = make_spec(
        file, method={"name": method}, peft=LORA, model=poisoned[kind],
        train={**RARELY, "max_steps": 17, "per_device_train_batch_size": 1 if method != "kto" else 2},
    )  # fmt: skip
    run = new_run(spec, "run")
    with pytest.raises(NotFinite, match=r"loss became nan, computed from .*rows\.jsonl:(\d+, )?12\b") as caught:
        train(run)
    step = int(caught.value.problems[0].where.removeprefix("step "))
    assert 1 <= step <= 17
    assert not (run / rundir.MODEL).exists()
    saved = [path.name for path in (run / rundir.CHECKPOINTS).glob("checkpoint-*")] if step > 1 else []
    assert sorted(saved) == sorted(f"checkpoint-{each}" for each in range(1, step))


def test_a_held_out_row_that_breaks_the_loss_is_named(poisoned, make_spec, new_run, tmp_path):
    good, bad = rows_of("sft")
    file = write_rows(tmp_path / "rows.jsonl", good)
    held = write_rows(tmp_path / "held.jsonl", [*good[:2], bad, *good[2:4]])
    cadence = {**RARELY, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 1}
    run = new_run(
        make_spec(file, peft=LORA, model=poisoned["LlamaForCausalLM"], train=cadence, eval_path=str(held)), "run"
    )
    with pytest.raises(NotFinite, match=r"step 2  held-out loss became nan, computed from .*held\.jsonl:3; "):
        train(run)


def test_rows_of_a_packed_block_are_named_and_of_a_stream_shown(poisoned, make_spec, new_run, tmp_path):
    good, bad = rows_of("sft")
    file = write_rows(tmp_path / "rows.jsonl", [*good[:5], bad])
    packs = make_spec(file, peft=LORA, model=poisoned["LlamaForCausalLM"], train={"packing": True, **RARELY})
    with pytest.raises(NotFinite, match=r"rows\.jsonl:1, 2, 3, 4, 5, 6; "):
        train(new_run(packs, "packed"))
    streams = make_spec(
        file, peft=LORA, model=poisoned["LlamaForCausalLM"], train={**RARELY, "max_steps": 3}, streaming=True
    )
    with pytest.raises(NotFinite, match=f"computed from .*{POISON}"):
        train(new_run(streams, "streamed"))


@pytest.mark.parametrize("clipped", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_never_reaches_the_optimiser(clipped, sft_file, make_spec, new_run, look):
    kept: dict[str, Any] = {}

    def plant(trainer: Any) -> None:
        parameter = next(each for each in trainer.model.parameters() if each.requires_grad)

        def broken(gradient: torch.Tensor) -> torch.Tensor:
            if trainer.state.global_step != 2:
                return gradient
            kept["weights"] = parameter.detach().clone()
            return torch.full_like(gradient, torch.inf)

        parameter.register_hook(broken)
        kept["parameter"] = parameter

    look(start=plant)
    run = new_run(make_spec(sft_file, train={**RARELY, "max_grad_norm": clipped}), "run")
    with pytest.raises(
        NotFinite, match=r"step 3  the norm of the gradient became (inf|nan), computed from .*sft\.jsonl"
    ):
        train(run)
    assert torch.equal(kept["parameter"], kept["weights"])
    assert len(list((run / rundir.CHECKPOINTS).glob("checkpoint-*"))) == 2


def test_an_update_that_breaks_the_weights_is_not_saved_even_at_the_last_step(sft_file, make_spec, new_run):
    settings = {**RARELY, "learning_rate": 1e38, "max_grad_norm": 0, "optim": "sgd", "max_steps": 1, "save_steps": 5}
    run = new_run(make_spec(sft_file, train={**settings, "weight_decay": 1e5}), "run")
    with pytest.raises(NotFinite, match=r"step 1  the update made weights that are not finite"):
        train(run)
    assert not (run / rundir.MODEL).exists()


def not_a_number(completions: Any, **_: Any) -> list[float]:
    """A reward with a hole in it."""
    return [float("nan")] * len(completions)


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_reward_that_is_not_finite_is_named_with_its_prompt(method, make_spec, new_run, tmp_path):
    file = write_rows(tmp_path / "prompts.jsonl", [{"prompt": prompt(f"Pick {i}.")} for i in range(8)])
    settings = {"name": method, "reward_functions": {f"{__name__}:not_a_number": 1.0}}
    settings |= {"num_generations": 2, "max_completion_length": 4} if method == "grpo" else {"max_new_tokens": 4}
    run = new_run(make_spec(file, method=settings, train={**RARELY, "max_steps": 1}), "run")
    with pytest.raises(NotFinite, match=r"not_a_number  the reward of an answer became nan; its prompt: .*Pick"):
        train(run)
    assert read_metrics(run / rundir.METRICS) == []
