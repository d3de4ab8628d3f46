"""The output head that a fused loss reads, where PEFT trains some of its rows."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, set_seed
from trl.trainer.utils import add_fused_lm_head

from ftcli.worker.models.new_tokens import readable_head


@pytest.mark.parametrize("tied", [True, False])
def test_a_fused_loss_reads_the_rows_that_are_trained_and_gives_them_their_gradients(tied: bool) -> None:
    set_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    plain = AutoModelForCausalLM.from_config(LlamaConfig(**shape, vocab_size=64, tie_word_embeddings=tied))
    rows = {name: [60, 61] for name in (["embed_tokens"] if tied else ["embed_tokens", "lm_head"])}
    config = LoraConfig(target_modules="all-linear", trainable_token_indices=rows, task_type="CAUSAL_LM")
    model = readable_head(get_peft_model(plain, config))
    for name, parameter in model.named_parameters():
        if "trainable_tokens_delta" in name:
            parameter.data.normal_()  # so that a head that reads the base's rows gives another loss
    ids = torch.tensor([[1, 60, 61, 5, 60, 7]])

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}

    expected = model(input_ids=ids, labels=ids).loss
    wanted = gradients(expected)
    add_fused_lm_head(model.get_base_model())
    found = model(input_ids=ids, labels=ids, fused_lm_head=True).loss
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    got = gradients(found)
    assert got.keys() == wanted.keys()
    assert sum("trainable_tokens_delta" in name for name in got) == len(rows)
    assert all(torch.allclose(got[name], wanted[name], atol=1e-5) for name in wanted)
