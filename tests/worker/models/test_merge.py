"""What merging an adapter says of the merged model: how far it is, on held-out rows and as it is stored, from what was
trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ftcli.core.errors import ConfigError, DiskError
from ftcli.models.export.served_difference import GOOD
from ftcli.runs.checkpoints import verify
from ftcli.settings.groups import ModelSettings, QuantisationSettings
from ftcli.worker.commands.merge import merge
from ftcli.worker.measures.divergence import LOGIT_BYTES, Row, difference, within
from ftcli.worker.measures.held_out_rows import PLAIN_TEXT
from ftcli.worker.models.load import load_model, load_trained
from ftcli.worker.process import free_space
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA, conversation, write_rows

HELD_OUT = {"eval_share": 0.25}
"""Six of the twenty-four rows."""
KINDS = {
    "lora": LORA,
    "dora": {**LORA, "use_dora": True},
    "ia3": {"name": "ia3", "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
}


def logits(model, text: str = "<|user|> Say red and blue.<|end|>") -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 17, 90, 45, 33, 21]])).logits


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_compared_with_what_was_trained_on_held_out_rows(
    kind, sft_file, make_spec, new_run, tmp_path
):
    run = new_run(make_spec(sft_file, peft=KINDS[kind], **HELD_OUT), "run")
    train(run)
    exact = merge({"models": [str(run)], "to": str(tmp_path / "exact"), "dtype": "float32"})
    [found] = exact["differences"]
    assert (found["on"], found["rows"], found["why"]) == ("held-out rows", 6, "")
    assert found["tokens"] >= 6 * 3  # two words and an end token each
    assert found["largest_difference"] < 1e-4
    assert found["divergence"] < 1e-6
    assert (found["same_next"], found["verdict"]) == (1.0, "good")
    rounded = merge({"models": [str(run)], "to": str(tmp_path / "rounded"), "dtype": "bfloat16", "rows": 4})
    [other] = rounded["differences"]
    assert rounded["dtype"] == "bfloat16"
    assert other["rows"] == 4
    assert other["largest_difference"] > 10 * found["largest_difference"]
    assert other["divergence"] < GOOD
    # Rounded once: the stored numbers are the sums in float32, rounded.
    whole, short = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("exact", "rounded"))
    for ours, theirs in zip(whole.state_dict().values(), short.state_dict().values(), strict=True):
        assert torch.equal(ours.to(torch.bfloat16), theirs.to(torch.bfloat16))
    assert "base_model" not in (tmp_path / "exact/README.md").read_text(encoding="utf-8").splitlines()[1]
    assert verify(tmp_path / "exact", needs=()) == []


def test_a_quantised_run_is_merged_into_the_stored_base_or_into_the_one_that_it_saw(
    sft_file, make_spec, new_run, tmp_path
):
    spec = replace(make_spec(sft_file, peft=LORA, **HELD_OUT), quantisation=QuantisationSettings(type="nf4"))
    run = new_run(spec, "run")
    train(run)
    stored = merge({"models": [str(run)], "to": str(tmp_path / "stored")})["differences"][0]
    seen = merge({"models": [str(run)], "to": str(tmp_path / "seen"), "base": "dequantised"})["differences"][0]
    assert seen["divergence"] < 1e-7 < stored["divergence"]
    assert seen["largest_difference"] < 1e-3 < stored["largest_difference"]
    as_trained = load_trained(
        ModelSettings(name_or_path=str(run)), seed=0, device="cpu", quantisation=spec.quantisation
    )
    whole = load_model(ModelSettings(name_or_path=str(tmp_path / "seen")), seed=0, device="cpu")
    assert torch.allclose(logits(whole), logits(as_trained), atol=1e-3)
    assert "quantization_config" not in json.loads((tmp_path / "seen/config.json").read_text(encoding="utf-8"))
    plain = new_run(make_spec(sft_file, peft=LORA, train={"max_steps": 1}), "plain")
    train(plain)
    with pytest.raises(ConfigError, match="was not trained on a quantised base"):
        merge({"models": [str(plain)], "to": str(tmp_path / "none"), "base": "dequantised"})
    assert not (tmp_path / "none").exists()


@pytest.fixture
def two_runs(make_spec, new_run, tmp_path: Path) -> list[str]:
    """Two LoRA runs on one base, of other rows."""
    runs = []
    for name, first in (("one", 0), ("two", 40)):
        rows = write_rows(tmp_path / f"{name}.jsonl", [conversation(first + i) for i in range(24)])
        run = new_run(make_spec(rows, peft=LORA, **HELD_OUT), name)
        train(run)
        runs.append(str(run))
    return runs


def test_several_adapters_become_one_model_and_each_is_told_what_it_lost(two_runs, make_spec, new_run, tmp_path):
    for how in ("linear", "ties", "dare_linear", "dare_ties"):
        kept = {} if how == "linear" else {"density": 0.5}
        combined = {"how": how, "weights": [1.0, 1.0], **kept}
        found = merge({"models": two_runs, "to": str(tmp_path / how), "combination": combined})
        assert [each["run"] for each in found["differences"]] == two_runs
        assert all(each["on"] == "held-out rows" and each["rows"] == 6 for each in found["differences"])
        assert all(each["divergence"] > 1e-6 for each in found["differences"])  # no longer either of them
    base = load_model(make_spec(tmp_path / "one.jsonl").model, seed=0, device="cpu").state_dict()
    summed = load_model(ModelSettings(name_or_path=str(tmp_path / "linear")), seed=0, device="cpu").state_dict()
    alone = []
    for run in two_runs:
        merge({"models": [run], "to": f"{run}-alone"})
        alone.append(load_model(ModelSettings(name_or_path=f"{run}-alone"), seed=0, device="cpu").state_dict())
    for name, weight in base.items():
        wanted = weight + sum(each[name] - weight for each in alone)
        assert torch.allclose(summed[name], wanted, atol=1e-5), name


def test_adapters_that_peft_does_not_combine_are_refused_before_anything_is_loaded(
    two_runs, sft_file, make_spec, new_run, tmp_path, models
):
    dora = new_run(make_spec(sft_file, peft=KINDS["dora"], train={"max_steps": 1}), "dora")
    other = new_run(make_spec(sft_file, peft=LORA, train={"max_steps": 1}, model=models["qwen3"]), "other")
    rank = new_run(make_spec(sft_file, peft={**LORA, "r": 8}, train={"max_steps": 1}), "rank")
    for run in (dora, other, rank):
        train(run)
    ties = {"how": "ties", "weights": [1.0, 1.0], "density": 0.5}
    for run, what in ((dora, "is a DORA adapter"), (other, "have different bases"), (rank, "same r value")):
        with pytest.raises(ConfigError, match=what):
            merge({"models": [two_runs[0], str(run)], "to": str(tmp_path / "none"), "combination": ties})
    linear = {"how": "linear", "weights": [0.5, 0.5]}
    merge({"models": [two_runs[0], str(rank)], "to": str(tmp_path / "ranks"), "combination": linear})
    assert not (tmp_path / "none").exists()
    assert not [*tmp_path.glob(".staging*")]


def test_a_merged_reward_model_has_no_next_tokens_to_compare(dpo_file, make_spec, new_run, tmp_path):
    spec = make_spec(dpo_file, method={"name": "reward"}, peft=LORA, train={"max_steps": 1}, **HELD_OUT)
    run = new_run(spec, "run")
    train(run)
    [found] = merge({"models": [str(run)], "to": str(tmp_path / "merged")})["differences"]
    assert (found["same_next"], found["divergence"], found["tokens"]) == (None, None, 6)
    assert found["largest_difference"] == pytest.approx(0, abs=1e-4)


def test_without_rows_a_model_is_compared_on_text_and_the_reason_is_told(sft_file, make_spec, new_run, tmp_path):
    run = new_run(make_spec(sft_file, peft=LORA, train={"max_steps": 1}), "run")
    train(run)
    [found] = merge({"models": [str(run)], "to": str(tmp_path / "a")})["differences"]
    assert (found["rows"], found["why"]) == (len(PLAIN_TEXT), "the run held out no rows")
    own = write_rows(tmp_path / "own.jsonl", [conversation(i) for i in range(3)])
    [found] = merge({"models": [str(run)], "to": str(tmp_path / "b"), "data": str(own)})["differences"]
    assert (found["rows"], found["on"]) == (3, "rows of own.jsonl")
    gone = new_run(make_spec(sft_file, peft=LORA, train={"max_steps": 1}, **HELD_OUT), "gone")
    train(gone)
    sft_file.unlink()
    [found] = merge({"models": [str(gone)], "to": str(tmp_path / "c")})["differences"]
    assert found["rows"] == len(PLAIN_TEXT)
    assert "cannot be read here" in found["why"]


def test_a_disk_without_room_is_told_of_before_it_is_written_to(sft_file, make_spec, new_run, tmp_path, monkeypatch):
    run = new_run(make_spec(sft_file, peft=LORA, train={"max_steps": 1}), "run")
    train(run)
    usage = free_space.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(free_space.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskError, match=r"the model in float32 takes about .* and 0\.0 MiB are free"):
        merge({"models": [str(run)], "to": str(tmp_path / "merged")})
    assert not (tmp_path / "merged").exists()
    assert not [*tmp_path.glob(".staging*")]


def test_the_measure_is_what_its_name_says():
    # Two tokens of a vocabulary of two; the trained model is sure of the first half, the served one is not.
    trained = [torch.tensor([[0.0, 0.0], [2.0, 0.0]])]
    served = [torch.tensor([[0.0, 0.0], [0.0, 1.0]])]
    found = difference(trained, served)
    p, q = trained[0][1].softmax(-1), served[0][1].softmax(-1)
    assert found.divergence == pytest.approx(float((p * (p / q).log()).sum()) / 2)
    assert (found.same_next, found.largest, found.tokens, found.verdict) == (0.5, 2.0, 2, "poor")


def test_rows_that_would_not_fit_in_memory_are_left_out():
    vocabulary = LOGIT_BYTES // 4 // 10  # room for ten tokens
    rows = [Row(range(8), [False] * 4 + [True] * 4) for _ in range(4)]
    assert len(within(rows, vocabulary)) == 2
    assert len(within(rows, vocabulary, share=2)) == 1
    [cut] = within([Row(range(30), [True] * 30)], vocabulary)
    assert len(cut.ids) == 10
