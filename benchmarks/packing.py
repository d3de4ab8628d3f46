"""How fast rows train, packed and not, against padded rows and against TRL's way of packing, on the same documents.

    python benchmarks/packing.py [--rounds 5] [--only tiny] [--save]

Four ways through the same trainer: rows padded to the longest of their batch, and computed so; the same rows computed
without their padding, and rows packed in blocks (ours); the same blocks laid end to end in one row with a mask for all
of it (TRL's collator). A round trains the same documents once in
each way, a step holding about the same number of tokens in all, so the work is the same and only its layout differs.
The order turns from round to round, and what counts is the ratio within a round, of which medians are told. Torch has
one thread, and what is divided by are CPU seconds: two threads wait for each other once a neighbour takes a core.

Two cases: the built-in model on its instructions, as `ftcli train` has them, and a random llama of SmolLM-135M's widths
with fewer layers and words on documents of mixed lengths.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import torch
from common import save, versions
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from trl import SFTConfig

from ftcli import tiny
from ftcli.methods import get_method
from ftcli.settings.groups import DataSettings
from ftcli.worker.tokenise.dataset import prepare
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.length_limits import Fitting
from ftcli.worker.tokenise.packing import packed
from ftcli.worker.trainers import without_padding
from ftcli.worker.training.trainer import make_trainer

WAYS = ("padded", "rows", "packed", "flattened")
SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
TOKENIZER = AutoTokenizer.from_pretrained(tiny.MODEL_DIR)
Rows = list[dict[str, list[int]]]


@dataclass(frozen=True)
class Case:
    """A model and its documents."""

    model: Callable[[], Any]
    rows: Callable[[], Rows]
    block: int
    """Tokens of a block; no row is longer."""
    batch: int
    """Rows a step where they are padded; packed, as many blocks as hold about as many tokens."""


def instructions() -> Rows:
    """A third of the built-in rows as a run has them, 18 to 50 tokens each."""
    settings = DataSettings(path=str(tiny.set_path("sft", "train")))
    found = prepare(settings, get_method("sft"), Encoder(TOKENIZER), Fitting(64, "drop"), seed=0).train
    assert isinstance(found, Dataset)
    return [dict(row) for row in found.select_columns(["input_ids", "labels"])][:640]


def mixed(count: int, block: int) -> Rows:
    """Documents as long as chat rows are, many short and a few long: log-normal with a median of 90 tokens."""
    draw = random.Random(0)
    lengths = [min(block, max(4, round(draw.lognormvariate(0, 0.9) * 90))) for _ in range(count)]
    documents = [[draw.randrange(3, 8192) for _ in range(length)] for length in lengths]
    return [{"input_ids": ids, "labels": ids} for ids in documents]


def smollm() -> Any:
    """SmolLM-135M's widths; 4 layers in place of 30 and 8,192 words in place of 49,152."""
    config = LlamaConfig(
        hidden_size=576, num_hidden_layers=4, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536,
        vocab_size=8192, tie_word_embeddings=True, pad_token_id=TOKENIZER.pad_token_id,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


CASES = {
    "tiny on its instructions": Case(
        lambda: AutoModelForCausalLM.from_pretrained(tiny.MODEL_DIR, dtype=torch.float32),
        instructions,
        block=64,
        batch=16,
    ),
    "smollm-135m widths on mixed lengths": Case(smollm, lambda: mixed(24, 512), block=512, batch=8),
}


def laid_out(way: str, rows: Rows, case: Case) -> tuple[Rows, int]:
    """The rows or their blocks, and how many of them a step takes."""
    if way in ("padded", "rows"):
        return rows, case.batch
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    blocks = [block for batch in packed(iter([table]), case.block, "bfd") for block in batch.to_pylist()]
    return blocks, max(1, round(case.batch * len(blocks) / len(rows)))


def as_transformers_does() -> AbstractContextManager[Any]:
    """Let trainers compute padding, and a mask over all documents of a row."""
    return patch.object(without_padding, "leave_out", lambda *_: False)


def trained(way: str, rows: Rows, case: Case) -> tuple[float, float]:
    """Tokens a CPU second of one epoch, and the share of all positions that were padding."""
    found, batch = laid_out(way, rows, case)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, packing=way not in ("padded", "rows"), max_length=case.block,
            per_device_train_batch_size=batch, num_train_epochs=1, gradient_checkpointing=False, bf16=False,
            use_cpu=True, dataloader_pin_memory=False, save_strategy="no",
            logging_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        train = Dataset.from_list(found)
        with as_transformers_does() if way in ("padded", "flattened") else nullcontext():
            trainer = make_trainer(get_method("sft"), config, case.model(), TOKENIZER, train=train, held_out=None)
        if way == "flattened":
            trainer.data_collator.padding_free = True
        masks = [batch["attention_mask"] for batch in trainer.get_train_dataloader()]
        positions, tokens = (sum(int(count(mask)) for mask in masks) for count in (torch.numel, torch.sum))
        began = time.process_time()
        trainer.train()
        return tokens / (time.process_time() - began), 1 - tokens / positions


def measured(name: str, case: Case, num_rounds: int) -> dict[str, Any]:
    """All rounds of a case."""
    rows, rounds, padding = case.rows(), [], {}
    for way in WAYS:
        trained(way, rows[: case.batch], case)  # what is built once is built before the clock runs
    for number in range(num_rounds):
        speeds = {}
        for place in range(len(WAYS)):
            way = WAYS[(place + number) % len(WAYS)]
            speeds[way], padding[way] = trained(way, rows, case)
        rounds.append({way: round(speeds[way]) for way in WAYS})
        print(f"{name}  round {number + 1}  {rounds[-1]}", flush=True)
    ratios = {
        f"packed / {way}": [round(one["packed"] / one[way], 3) for one in rounds] for way in WAYS if way != "packed"
    }
    return {
        "documents": len(rows),
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "block": case.block,
        "per_step": {way: laid_out(way, rows, case)[1] for way in WAYS},
        "share_of_padding": {way: round(padding[way], 3) for way in WAYS},
        "tokens_per_cpu_second": rounds,
        "median_tokens_per_cpu_second": {way: median(one[way] for one in rounds) for way in WAYS},
        "ratios": ratios,
        "median_ratios": {name: median(values) for name, values in ratios.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(CASES), help="beginnings of the names of cases")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/packing.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load, found = os.getloadavg()[0], {}
    for name, case in CASES.items():
        if name.startswith(tuple(options.only)):
            found[name] = measured(name, case, options.rounds)
            print(f"{name}  {found[name]['median_ratios']}", flush=True)
    if options.save:
        about = {"rounds": options.rounds, "threads": torch.get_num_threads(), "load": load, "versions": versions()}
        save("packing", {"schema": 1, **about, "cases": found})


if __name__ == "__main__":
    main()
