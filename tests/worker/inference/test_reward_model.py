"""The reward model at work: its score is the same wherever it is asked, and it ranks, filters and chooses answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ftcli.cli.sample import selected_rows
from ftcli.cli.score import chosen, value_of
from ftcli.core.errors import ConfigError
from ftcli.settings.groups import ModelSettings, QuantisationSettings
from ftcli.worker.commands.sample import sample
from ftcli.worker.commands.score import score
from ftcli.worker.inference.reward_model import RewardModel
from ftcli.worker.models.load import load_trained
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA, conversation, write_rows


@pytest.fixture(params=["none", "lora"])
def judged(request, dpo_file, make_spec, new_run, look) -> tuple[Path, Any, dict[str, Any]]:
    """A trained reward run, the model as it was when it was saved, and the result."""
    seen: list[Any] = []
    look(end=seen.append)
    peft = LORA if request.param == "lora" else None
    spec = make_spec(dpo_file, method={"name": "reward"}, peft=peft, run={"score_rows": 8}, eval_path=str(dpo_file))
    run_dir = new_run(spec, "reward")
    result = train(run_dir)
    return run_dir, seen[0].eval(), result


def test_a_score_is_the_same_after_loading_padded_left_or_right_batched_or_alone(judged):
    run_dir, model, result = judged
    assert result["score"]["name"] == "preference_accuracy"
    assert result["score"]["after"] > 0.9
    loaded = RewardModel(str(run_dir), {})
    sequences = [[5, 6, 7, 8, 9, 2], [10, 2], [11, 12, 13, 2]]
    pad = loaded.encoder.tokenizer.pad_token_id
    alone = []
    with torch.no_grad():
        for ids in sequences:
            alone.append(model(input_ids=torch.tensor([ids])).logits[0, 0].item())
        longest = max(map(len, sequences))
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in sequences])
        left = loaded.model(input_ids=ids, attention_mask=(ids != pad).long()).logits[:, 0].tolist()
    assert loaded.score(sequences) == pytest.approx(alone, abs=1e-5)
    assert left == pytest.approx(alone, abs=1e-5)
    for ids, expected in zip(sequences, alone, strict=True):
        assert loaded.score([ids]) == pytest.approx([expected], abs=1e-5)


def test_rows_are_scored_and_those_that_win_are_kept(judged, dpo_file, tmp_path):
    run_dir, *_ = judged
    found = list(score({"model": str(run_dir), "data": str(dpo_file)}))
    assert len(found) == 24
    assert sum(value_of(each) > 0 for each in found) > 22
    turns = [
        {"prompt": row["row"]["prompt"], "completion": row["row"][side]}
        for row in found[:3]
        for side in ("rejected", "chosen")
    ]
    single = list(score({"model": str(run_dir), "data": str(write_rows(tmp_path / "pairs.jsonl", turns))}))
    sides = [value for row in found[:3] for value in reversed(row["scores"])]
    assert [row["score"] for row in single] == pytest.approx(sides, abs=1e-5)
    best = chosen(single, least=None, top=None, best=True, rank=True)
    assert [row["row"]["completion"] for row in best] == [
        row["row"]["chosen"] for row in sorted(found[:3], key=lambda row: -row["scores"][0])
    ]


def test_answers_are_sampled_scored_and_chosen(judged, models, tmp_path):
    run_dir, *_ = judged
    rows = write_rows(tmp_path / "asked.jsonl", [conversation(i) for i in range(3)])
    asked = {
        "model": str(models["llama"]), "data": str(rows), "num_answers": 4, "max_new_tokens": 6, "temperature": 1.0,
        "top_p": 1.0, "seed": 1, "reward": str(run_dir),
    }  # fmt: skip
    found = list(sample(asked))
    assert [len(each["answers"]) for each in found] == [4, 4, 4]
    assert found[0]["prompt"] == conversation(0)["messages"][:1]
    assert found == list(sample(asked))
    for each in found:
        [best] = selected_rows(each, "best", None)
        assert best["score"] == max(each["scores"])
        for pair in selected_rows(each, "pairs", None):
            assert pair["margin"] == max(each["scores"]) - min(each["scores"])
    assert [list(selected_rows(each, "best", 1e9)) for each in found] == [[], [], []]


def test_a_model_of_words_is_no_judge(models):
    with pytest.raises(ConfigError, match="is a causal LM, not a reward model"):
        RewardModel(str(models["llama"]), {})


def test_a_judge_does_not_speak(judged):
    run_dir, *_ = judged
    with pytest.raises(ConfigError, match="is a reward model, not a causal LM"):
        load_trained(ModelSettings(name_or_path=str(run_dir)), seed=0, device="cpu")


def test_a_score_for_each_side_of_a_reward_model_is_what_the_sequence_class_gives(judged):
    run_dir, _, _ = judged
    if (run_dir / "model" / "adapter_config.json").is_file():
        pytest.skip("an adapter is no model that transformers loads alone")
    plain = AutoModelForSequenceClassification.from_pretrained(run_dir / "model").eval()
    with torch.no_grad():
        expected = plain(input_ids=torch.tensor([[5, 6, 2]])).logits[0, 0].item()
    assert RewardModel(str(run_dir), {}).score([[5, 6, 2]]) == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize("kind", ["none", "nf4"])
def test_a_judge_is_trained_on_what_another_run_left(kind, dpo_file, sft_file, make_spec, new_run):
    first = new_run(make_spec(sft_file, peft=LORA), "words")
    train(first)
    spec = make_spec(dpo_file, method={"name": "reward"}, peft=LORA, model=str(first))
    second = new_run(replace(spec, quantisation=QuantisationSettings(type=kind, compute_dtype="float32")), "judge")
    train(second)
    loaded = RewardModel(str(second), {})
    assert loaded.score([[5, 6, 2]]) == loaded.score([[5, 6, 2]])
    merged = RewardModel(str(second), {}).model
    assert merged.get_base_model().config.num_labels == 1
