"""New tokens: rows of the embeddings that start as a mean, are trained, saved, loaded, merged and resumed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, set_seed

from ftcli.core.errors import ConfigError
from ftcli.models.known_shapes import model_shape
from ftcli.models.parameters import num_parameters
from ftcli.runs import rundir
from ftcli.settings.groups import ModelSettings, QuantisationSettings
from ftcli.worker.commands.eval import evaluate
from ftcli.worker.commands.merge import merge
from ftcli.worker.models.load import load_model, load_tokenizer, load_trained
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA, same_weights, weights, write_rows

TOKENS = ["<call>", "<|turn|>"]
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
VOCABULARY = 1024
FULL = {"name": "none"}


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A random Llama whose output head has weights of its own."""
    folder = tmp_path_factory.mktemp("untied")
    set_seed(5)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**shape, vocab_size=VOCABULARY, tie_word_embeddings=False, pad_token_id=0, eos_token_id=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def base(request: Any, models: dict[str, Path], untied: Path) -> Path:
    return untied if request.param == "untied" else models["llama"]


@pytest.fixture
def spec_with(make_spec: Any, tmp_path: Path) -> Any:
    """A spec whose rows and template hold the new tokens."""
    template = tmp_path / "turns.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Add {i} and {i + 1}."},
                {"role": "assistant", "content": f"<call>{2 * i + 1}"},
            ]
        }
        for i in range(24)
    ]
    file = write_rows(tmp_path / "calls.jsonl", rows)

    def make(model: Path, **more: Any) -> Any:
        spec = make_spec(more.pop("file", file), model=model, **more)
        return replace(spec, model=replace(spec.model, new_tokens=TOKENS, chat_template=str(template)))

    return make


@pytest.mark.parametrize("base", ["tied", "untied"], indirect=True)
def test_new_rows_start_as_the_mean_of_all_others(base):
    before = AutoModelForCausalLM.from_pretrained(base)
    model = load_model(ModelSettings(name_or_path=str(base), new_tokens=TOKENS), seed=0, device="cpu")
    for old, new in (
        (before.get_input_embeddings(), model.get_input_embeddings()),
        (before.get_output_embeddings(), model.get_output_embeddings()),
    ):
        assert new.weight.shape[0] == VOCABULARY + 2
        assert torch.equal(new.weight[:VOCABULARY], old.weight)
        assert torch.allclose(new.weight[VOCABULARY:], old.weight.mean(0).expand(2, -1), atol=1e-7)


def test_a_token_of_the_template_is_a_control_token_and_any_other_one_is_text(models, tmp_path):
    template = tmp_path / "turns.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    settings = ModelSettings(name_or_path=str(models["llama"]), new_tokens=TOKENS, chat_template=str(template))
    tokenizer = load_tokenizer(settings)
    ids = tokenizer.encode("<|turn|>a<call>b", add_special_tokens=False)
    assert {VOCABULARY, VOCABULARY + 1} <= set(ids)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<call>b"


def test_a_token_that_exists_is_refused(models):
    with pytest.raises(ConfigError, match=r"<\|im_end\|> is in the vocabulary already"):
        load_tokenizer(ModelSettings(name_or_path=str(models["llama"]), new_tokens=["<|im_end|>"]))


@pytest.mark.parametrize("base", ["tied", "untied"], indirect=True)
@pytest.mark.parametrize("peft", [FULL, LORA], ids=["full", "lora"])
def test_new_tokens_are_trained_saved_loaded_and_merged(base, peft, spec_with, new_run, tmp_path):
    run = new_run(spec_with(base, peft=peft, eval_share=0.25, run={"score_rows": 4}), "run")
    result = train(run)
    assert result["eval_loss"]["after"] < result["eval_loss"]["before"]
    heads = 2 if base.name.startswith("untied") else 1
    if peft is LORA:
        declared = json.loads((run / rundir.MODEL / "adapter_config.json").read_text(encoding="utf-8"))
        assert len(declared["trainable_token_indices"]) == heads
        assert max(tensor.shape[0] for tensor in weights(run).values()) < VOCABULARY  # no whole matrix
    model = load_trained(ModelSettings(name_or_path=str(run)), seed=0, device="cpu")
    rows = model.get_input_embeddings().weight[VOCABULARY:]
    start = load_model(ModelSettings(name_or_path=str(base), new_tokens=TOKENS), seed=0, device="cpu")
    rows = rows.detach()
    assert float((rows - start.get_input_embeddings().weight[VOCABULARY:]).abs().min()) > 0  # every one was trained
    found = evaluate({"run": str(run), "data": None, "rows": None})
    assert found["before"]["eval_loss"] == pytest.approx(result["eval_loss"]["before"], rel=1e-5)
    assert found["after"]["eval_loss"] == pytest.approx(result["eval_loss"]["after"], rel=1e-5)
    ids = torch.tensor([load_tokenizer(ModelSettings(name_or_path=str(run))).encode("<|turn|>user\nAdd<call>7")])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        if peft is LORA:  # as another tool loads an adapter: the base grows with the tokenizer beside it
            served = AutoPeftModelForCausalLM.from_pretrained(run / rundir.MODEL)
            assert torch.allclose(served(input_ids=ids).logits, expected, atol=1e-5)
            merge({"models": [str(run)], "to": str(tmp_path / "merged")})
            whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
            assert torch.allclose(whole(input_ids=ids).logits, expected, atol=1e-4)
            assert len(AutoTokenizer.from_pretrained(tmp_path / "merged")) == VOCABULARY + 2


@pytest.mark.parametrize("base", ["tied", "untied"], indirect=True)
@pytest.mark.parametrize("peft", [FULL, LORA], ids=["full", "lora"])
def test_a_reference_has_the_rows_that_the_policy_starts_with(base, peft, spec_with, new_run, tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Add {i} and 1."}],
            "chosen": [{"role": "assistant", "content": f"<call>{i + 1}"}],
            "rejected": [{"role": "assistant", "content": f"It is <call>{i}"}],
        }
        for i in range(16)
    ]
    file = write_rows(tmp_path / "pairs.jsonl", rows)
    spec = spec_with(base, file=file, peft=peft, method={"name": "dpo"}, eval_share=0.25, train={"max_steps": 3})
    result = train(new_run(spec, "dpo"))
    # −log σ(0) = ln 2 only if both give every token the same probability.
    assert result["loss_first"] == pytest.approx(math.log(2), abs=1e-5)
    assert result["loss_last"] < result["loss_first"]


@pytest.mark.parametrize("base", ["tied", "untied"], indirect=True)
@pytest.mark.parametrize("peft", [FULL, LORA], ids=["full", "lora"])
def test_a_resumed_run_ends_with_the_same_rows(base, peft, spec_with, new_run):
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = new_run(spec_with(base, peft=peft, train=saving), "whole")
    train(whole)
    resumed = new_run(spec_with(base, peft=peft, train=saving), "resumed")
    train(resumed)
    train(resumed, resumed / rundir.CHECKPOINTS / "checkpoint-2")
    assert same_weights(whole, resumed)


def test_a_run_starts_from_one_that_added_tokens(spec_with, make_spec, new_run, models, sft_file):
    first = new_run(spec_with(models["llama"], peft=LORA), "first")
    train(first)
    second = new_run(make_spec(sft_file, model=first, peft=LORA, train={"max_steps": 2}), "second")
    planned = model_shape(ModelSettings(name_or_path=str(first)))
    assert planned.vocab_size == VOCABULARY + 2  # the adapter's own rows, which its base does not have
    loaded = load_model(ModelSettings(name_or_path=str(first)), seed=0, device="cpu")
    assert num_parameters(planned) == loaded.num_parameters()
    train(second)
    assert load_model(ModelSettings(name_or_path=str(second)), seed=0, device="cpu").config.vocab_size == VOCABULARY + 2


def test_rows_that_an_adapter_trained_whole_are_counted(spec_with, new_run, models):
    whole = {**LORA, "modules_to_save": ["embed_tokens"]}
    first = new_run(spec_with(models["llama"], peft=whole, train={"max_steps": 2}), "first")
    train(first)
    assert model_shape(ModelSettings(name_or_path=str(first))).vocab_size == VOCABULARY + 2


def test_new_tokens_are_trained_on_a_quantised_base(spec_with, new_run, models):
    pytest.importorskip("bitsandbytes")
    spec = spec_with(models["llama"], peft=LORA, eval_share=0.25, run={"score_rows": 4})
    run = new_run(replace(spec, quantisation=QuantisationSettings(type="nf4", compute_dtype="float32")), "qlora")
    result = train(run)
    assert result["eval_loss"]["after"] < result["eval_loss"]["before"]
    found = evaluate({"run": str(run), "data": None, "rows": None})
    assert found["after"]["eval_loss"] == pytest.approx(result["eval_loss"]["after"], rel=1e-4)
