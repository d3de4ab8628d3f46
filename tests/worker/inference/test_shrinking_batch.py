"""Answers that have ended leave the batch, and the others go on as they would have."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    set_seed,
)

from ftcli.worker.inference.shrinking_batch import STRETCH, generate, shrinking

ROWS, TOKENS, VOCABULARY = 12, 3 * STRETCH, 64
ENDS = [5, 6, 7, 8]


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2))


def windowed() -> Any:
    """Layers that see eight tokens, and one that sees all."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, num_key_value_heads=1, head_dim=8, sliding_window=8, layer_types=kinds, **sizes
    )
    return Gemma3ForCausalLM(config)


def mamba() -> Any:
    """Without keys and values."""
    return MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4))


def llama() -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=1, **sizes))


def adapted(config: Any) -> Any:
    model = get_peft_model(llama(), config)
    for name, each in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(each)
    return model


LORA = partial(adapted, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
PROMPTS = partial(adapted, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
SHRINK = {"llama": llama, "gpt2": gpt2, "a sliding window": windowed, "lora": LORA}
STAY_WHOLE = {"prompt tuning": PROMPTS, "mamba": mamba}


def a_batch() -> tuple[Any, Any]:
    """Prompts of unequal length."""
    ids = torch.randint(9, VOCABULARY, (ROWS, 6))
    mask = torch.ones_like(ids)
    for row in range(ROWS):
        mask[row, : row % 4] = 0
    return ids * mask, mask


def way(**settings: Any) -> GenerationConfig:
    return GenerationConfig(
        **{"max_new_tokens": TOKENS, "eos_token_id": ENDS, "pad_token_id": 0, "repetition_penalty": 1.0, **settings}
    )


def spread(model: Any) -> Any:
    """A model that has an end now and then, wherever it is."""
    set_seed(3)
    model.eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.4)
    return model


def batches(model: Any) -> list[int]:
    """Rows of each pass, which fills as the model is called."""
    found: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: found.append(len(inputs[0])))
    return found


def answers_of(found: Any) -> list[list[int]]:
    """Up to their end; what follows is padding."""
    cut = []
    for answer in found[:, 6:].tolist():
        end = next((i for i, token in enumerate(answer) if token in ENDS), len(answer))
        assert not any(answer[end + 1 :]), "padding follows the end"
        cut.append(answer[: end + 1])
    return cut


@pytest.mark.parametrize("name", SHRINK)
def test_greedy_answers_are_those_of_the_whole_batch_and_the_batch_shrinks(name: str):
    model = spread(SHRINK[name]())
    ids, mask = a_batch()
    how = way(do_sample=False)
    if name != "a sliding window":  # a greedy answer often repeats itself; a rise in variety lets some end late
        how.repetition_penalty = 1.3
    with torch.no_grad():
        whole = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
        rows = batches(model)
        ours = generate(model, ids, mask, how)
    assert answers_of(ours) == answers_of(whole)
    lengths = [len(answer) for answer in answers_of(whole)]
    assert min(lengths) < STRETCH < max(lengths)
    assert rows[0] == ROWS
    assert rows[-1] == sum(length > (max(lengths) - 1) // STRETCH * STRETCH for length in lengths)


@pytest.mark.parametrize("name", STAY_WHOLE)
def test_a_batch_whose_rows_cannot_leave_is_generated_by_the_model(name: str):
    model = spread(STAY_WHOLE[name]())
    ids, mask = a_batch()
    how = way(do_sample=True, temperature=1.0, top_k=0)
    with torch.no_grad():
        set_seed(1)
        whole = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
        set_seed(1)
        assert torch.equal(generate(model, ids, mask, how), whole)


def test_settings_that_count_from_the_prompt_leave_the_batch_whole():
    model = spread(llama())
    ids, mask = a_batch()
    how = way(do_sample=False, min_new_tokens=STRETCH + 3)
    with torch.no_grad():
        found = generate(model, ids, mask, how)
    assert min(len(answer) for answer in answers_of(found)) > STRETCH + 3


def test_draws_are_those_of_the_whole_batch_until_a_row_leaves_and_of_the_same_distribution_after():
    """A model that ends with a fixed chance at each token: lengths are geometric, whichever way they are drawn."""
    model = spread(gpt2())
    model.lm_head = nn.Linear(16, VOCABULARY)
    nn.init.zeros_(model.lm_head.weight)
    nn.init.zeros_(model.lm_head.bias)  # each of 64 tokens alike, of which 4 end: a sixteenth
    ids, mask = torch.randint(9, VOCABULARY, (1500, 6)), torch.ones(1500, 6, dtype=torch.long)
    how = way(do_sample=True, temperature=1.0, top_k=0)
    with torch.no_grad():
        set_seed(1)
        whole = answers_of(model.generate(input_ids=ids, attention_mask=mask, generation_config=how))
        set_seed(1)
        ours = answers_of(generate(model, ids, mask, how))
    assert [answer[:STRETCH] for answer in ours] == [answer[:STRETCH] for answer in whole]
    assert ours != whole
    for longer_than in (16, 32, 40):
        expected = (15 / 16) ** longer_than
        share = sum(len(answer) > longer_than for answer in ours) / len(ours)
        assert abs(share - expected) < 4 * (expected * (1 - expected) / len(ours)) ** 0.5


def test_a_librarys_call_of_generate_shrinks_too_and_the_model_is_as_before_after():
    model = spread(llama())
    ids, mask = a_batch()
    how = way(do_sample=False, repetition_penalty=1.3)
    rows = batches(model)
    with torch.no_grad(), shrinking(model):
        found = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
    assert rows[-1] < ROWS
    assert "generate" not in vars(model)
    with torch.no_grad():
        assert answers_of(found) == answers_of(
            model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
        )


@pytest.mark.parametrize("tokens", [4, TOKENS], ids=["short", "long"])
@pytest.mark.parametrize("name", SHRINK)
def test_a_prompt_is_computed_once_for_all_of_its_answers(name: str, tokens: int):
    model = spread(SHRINK[name]())
    ids, mask = a_batch()
    rows = torch.tensor([2, 5, 5, 2, 2, 7, 5, 3])
    ids, mask = ids[rows], mask[rows]
    how = way(do_sample=False, max_new_tokens=tokens, repetition_penalty=1.3)
    shapes: list[tuple[int, ...]] = []
    with torch.no_grad():
        whole = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
        model.get_input_embeddings().register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
        ours = generate(model, ids, mask, how)
    assert answers_of(ours) == answers_of(whole)
    assert shapes[:2] == [(4, 5), (8, 1)]


def test_answers_to_one_prompt_are_drawn_apart_and_as_often_as_by_the_model():
    model = spread(llama())
    prompt = torch.randint(9, VOCABULARY, (1, 6))
    ids, how = prompt.repeat(3000, 1), way(do_sample=True, temperature=1.0, top_k=0, max_new_tokens=1)
    with torch.no_grad():
        chances = model(prompt).logits[0, -1].softmax(-1)
        set_seed(1)
        drawn = generate(model, ids, torch.ones_like(ids), how)[:, 6]
    shares = torch.bincount(drawn, minlength=VOCABULARY) / len(ids)
    assert ((shares - chances).abs() < 4 * (chances * (1 - chances) / len(ids)).sqrt() + 2 / len(ids)).all()


def test_prompts_of_one_token_stay_whole():
    model = spread(llama())
    ids = torch.tensor([[0, 9], [12, 9], [0, 9]])
    how = way(do_sample=False)
    with torch.no_grad():
        whole = model.generate(input_ids=ids, attention_mask=(ids > 0).long(), generation_config=how)
        assert torch.equal(generate(model, ids, (ids > 0).long(), how)[:, : whole.size(1)], whole)
