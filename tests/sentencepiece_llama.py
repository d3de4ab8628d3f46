"""A random Llama of two layers whose tokenizer llama.cpp knows: of the SentencePiece kind, made of a few words.

llama.cpp knows byte-level tokenizers by those of published models alone, and SentencePiece ones by their kind.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

REASON = "pip install 'ftcli[gguf]'"
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}[{{ turn['role'] }}]{{ turn['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
WORDS = (
    *("red", "blue", "green", "house", "tree", "river", "stone", "bird", "fish", "moon", "sun", "rain", "leaf"),
    *("Say", "and", "user", "assistant", "system"),
)
TEXTS = [" ".join(WORDS[(i + k) % len(WORDS)] for k in range(9)) + "." for i in range(60)]


def sentencepiece_llama(folder: Path, *, spaced: bool = True, hidden_size: int = 32) -> Path:
    """Write it into a folder.

    Args:
        spaced: whether its tokenizer puts a space after each special token, or at the beginning alone.
        hidden_size: a multiple of 256 where llama.cpp's mixtures of types are to divide it.
    """
    sentencepiece = pytest.importorskip("sentencepiece", reason=REASON)
    pytest.importorskip("xllamacpp", reason=REASON)
    pytest.importorskip("google.protobuf", reason=REASON)
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast, set_seed
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=written, vocab_size=400, model_type="bpe", byte_fallback=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=1.0, hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    names = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    about = {**names, "add_bos_token": True, "legacy": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if spaced:
        own = json.loads(tokenizer.backend_tokenizer.to_str())
        marks = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
        own |= {"normalizer": {"type": "Sequence", "normalizers": marks}, "pre_tokenizer": None}
        words = {name: names[name] for name in ("bos_token", "eos_token", "unk_token")}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(own)), **words)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=hidden_size * 3 // 2,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=hidden_size // 2,
        max_position_embeddings=256, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    set_seed(7)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
