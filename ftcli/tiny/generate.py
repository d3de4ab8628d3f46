"""Rebuild the tiny world from its seed: `python -m ftcli.tiny.generate OUT_DIR`.

Writes OUT_DIR/pretrain.jsonl (the corpus, not shipped), OUT_DIR/data/ and OUT_DIR/model/ (tokenizer and shape, no
weights), byte for byte what the shipped model was trained from. The weights are then trained by
`ftcli train recipe=tiny-pretrain data.path=OUT_DIR/pretrain.jsonl model.name_or_path=OUT_DIR/model`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path

from ftcli.tiny import tokenizer
from ftcli.tiny.passages import NUM_DOCUMENTS, documents
from ftcli.tiny.sets import instructions, normalise, write_sets
from ftcli.tiny.world import SEED

# The role names must be single tokens though no passage holds a conversation; enough lines to be merged early.
_ROLES = ("system\nuser\nassistant\n",) * 3000
_NUM_TOKENIZER_DOCUMENTS = 40_000

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": tokenizer.VOCAB_SIZE,
    "hidden_size": 160,
    "intermediate_size": 432,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": None,
    "eos_token_id": tokenizer.SPECIAL.index("<|im_end|>"),
    "pad_token_id": tokenizer.SPECIAL.index("<|pad|>"),
    "dtype": "bfloat16",
}
"""The shape of the built-in model: 1,404,320 parameters, the embeddings shared with the output."""

_GENERATION = {key: CONFIG[key] for key in ("eos_token_id", "pad_token_id")} | {"max_new_tokens": 64}


def leaks(texts: Iterable[str], seed: int = SEED) -> list[str]:
    """The held-out prompts that occur, normalised, anywhere in the texts; searched line by line."""
    lines = {normalise(line) for text in texts for line in text.split("\n")}
    haystack = "\n".join(lines)
    prompts = (row["messages"][0]["content"] for row in instructions("eval", seed))
    return [prompt for prompt in prompts if normalise(prompt) in haystack]


def build(out: Path, num_documents: int = NUM_DOCUMENTS, seed: int = SEED) -> None:
    """Write corpus, shipped sets, tokenizer and shape under out.

    Raises:
        ValueError: a held-out prompt occurs in the training text; the wording of the tasks must be changed.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_sets(out / "data", seed)
    corpus = list(documents(num_documents, seed))
    trained_on = chain(corpus, (row["messages"][0]["content"] for row in instructions("train", seed)))
    if leaked := leaks(trained_on, seed):
        raise ValueError(f"{len(leaked)} held-out prompts occur in training text, such as {leaked[0]!r}")
    with (out / "pretrain.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in corpus)
    tokenizer.train(chain(islice(corpus, _NUM_TOKENIZER_DOCUMENTS), _ROLES), out / "model")
    for name, content in (("config", CONFIG), ("generation_config", _GENERATION)):
        (out / "model" / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the one argument and build."""
    parser = argparse.ArgumentParser(prog="python -m ftcli.tiny.generate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to write pretrain.jsonl, data/ and model/ into")
    build(parser.parse_args(argv).out)


if __name__ == "__main__":
    main()
