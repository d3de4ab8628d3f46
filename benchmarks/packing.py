"""How fast packed rows train against padded ones and against TRL's way of packing, on the same documents.

Three ways through the same trainer: rows padded to the longest of their batch; rows packed in blocks that stay rows of
the batch (ours); the same blocks laid end to end in one row (TRL's padding-free collator). A round trains all three on
the same tokens, one after the other; what counts is the ratio within a round.

    python benchmarks/packing.py [--rounds N]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

import pyarrow as pa
import torch
from common import save, versions
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from trl import SFTConfig

from ftcli import tiny
from ftcli.methods import get_method
from ftcli.worker.packing import packed
from ftcli.worker.trainer import make_trainer

# Lengths of chat rows: many short ones and a few long ones (a log-normal with median 90), cut at the block.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 160, "layers": 4, "heads": 5, "inner": 432, "block": 64, "median": 26, "spread": 0.35, "rows": 256,
    },
    "smollm-135m, 6 of 30 layers": {
        "hidden_size": 576, "layers": 6, "heads": 9, "inner": 1536, "block": 512, "median": 90, "spread": 0.9, "rows": 48,
    },
}  # fmt: skip
BATCH = 8


def rows(count: int, block: int, median: int, spread: float) -> list[list[int]]:
    """Documents of drawn lengths."""
    draw = random.Random(0)
    lengths = [min(block, max(4, round(draw.lognormvariate(0, spread) * median))) for _ in range(count)]
    return [[draw.randrange(3, 700) for _ in range(length)] for length in lengths]


def trained(way: str, documents: list[list[int]], shape: dict[str, Any]) -> float:
    """Tokens a second of one epoch over the documents."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.MODEL_DIR)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape["hidden_size"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=shape["inner"],
        vocab_size=768 if shape["hidden_size"] < 200 else 8192,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = AutoModelForCausalLM.from_config(config)
    schema = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
    table = pa.table({"input_ids": documents, "labels": documents}, schema=schema)
    found = table.to_pylist()
    if way != "padded":
        found = [block for batch in packed(iter([table]), shape["block"], "bfd") for block in batch.to_pylist()]
    # The same tokens a step: fewer blocks than rows make up a batch.
    batch = BATCH if way == "padded" else max(1, round(BATCH * len(found) / len(documents)))
    arguments = SFTConfig(
        output_dir="build/packing", packing=way != "padded", max_length=shape["block"], use_cpu=True, bf16=False,
        per_device_train_batch_size=batch, num_train_epochs=1, gradient_checkpointing=False, report_to="none",
        save_strategy="no", logging_strategy="no", remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = make_trainer(
        get_method("sft"), arguments, model, tokenizer, train=Dataset.from_list(found), held_out=None
    )
    if way == "flattened":
        trainer.data_collator.padding_free = True
    began = time.perf_counter()
    trainer.train()
    return sum(map(len, documents)) / (time.perf_counter() - began)


def main() -> None:
    """Run the rounds and save them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        documents = rows(shape["rows"], shape["block"], shape["median"], shape["spread"])
        trained("packed", documents[:16], shape)  # warm
        rounds = []
        for _ in range(options.rounds):
            speeds = {way: trained(way, documents, shape) for way in ("padded", "packed", "flattened")}
            rounds.append({way: round(speed) for way, speed in speeds.items()})
            print(name, rounds[-1], flush=True)
        ratios = {
            f"packed over {way}": round(statistics.median(one["packed"] / one[way] for one in rounds), 2)
            for way in ("padded", "flattened")
        }
        found[name] = {"tokens_per_second": rounds, "median_ratio": ratios}
        print(name, ratios, flush=True)
    save("packing", {"shapes": found, "when": time.strftime("%Y-%m-%d"), "versions": versions()})


if __name__ == "__main__":
    main()
