"""TRL: a trainer of the method with a model of two small layers, its prepared rows, and its collator's labels.

The configuration's fields that shape tokens go to the trainer as they are; rows carry their number through its maps.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

Request = dict[str, Any]
Row = dict[str, Any]

TRAINERS = {"sft": "SFT", "dpo": "DPO", "ipo": "DPO", "kto": "KTO", "reward": "Reward"}
EXPERIMENTAL = {"orpo": "ORPO", "cpo": "CPO", "simpo": "CPO"}
"""Trainers that TRL keeps in trl.experimental: they tokenise pairs of texts, and mask themselves."""
NUMBER = "row_number_in_the_file"
_OWN = ("chat_template", "max_seq_length")
"""No fields of a trainer's configuration, but settings of the alignment handbook's scripts and of older releases."""


def tokenise(request: Request) -> dict[str, Any]:
    """The tokens of every row of every set."""
    from transformers import AutoTokenizer

    found = []
    for row_set in request["sets"]:
        tokenizer = AutoTokenizer.from_pretrained(request["model"])
        if template := request["settings"].get("chat_template"):
            tokenizer.chat_template = template
        found.append(of_set(request, row_set, tokenizer))
    return {"version": metadata.version("trl"), "sets": found}


def of_set(request: Request, row_set: dict[str, Any], tokenizer: Any) -> list[Row]:
    """The rows of one set, prepared and collated by the trainer of the method."""
    from datasets import load_dataset

    rows = load_dataset("json", data_files=row_set["rows"], split="train")
    if columns := row_set["settings"].get("columns"):
        rows = rows.select_columns(columns)
    rows = rows.add_column(NUMBER, range(len(rows)))
    trainer = trainer_of(request, rows, tokenizer)
    found: list[Row] = [{"dropped": "it is too long, or nothing of it would be trained"} for _ in range(len(rows))]
    for number, sequences in sequences_of(trainer):
        found[number] = {"sequences": sequences}
    return found


def sequences_of(trainer: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows that a trainer has kept, each with its number."""
    for row in trainer.train_dataset:
        yield row.pop(NUMBER), _sequences(row, trainer)


def trainer_of(request: Request, rows: Any, tokenizer: Any, classes: tuple[Any, Any] | None = None) -> Any:
    """A trainer that has prepared its rows and trains nothing.

    Args:
        classes: configuration and trainer; None takes those of TRL for the method.
    """
    import trl
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    name = TRAINERS.get(request["method"], EXPERIMENTAL.get(request["method"], ""))
    source = trl
    if request["method"] in EXPERIMENTAL:
        source = importlib.import_module(f"trl.experimental.{name.lower()}")
    config_class, trainer_class = classes or (getattr(source, f"{name}Config"), getattr(source, f"{name}Trainer"))
    known = {each.name for each in fields(config_class)}
    settings = {key: value for key, value in request["settings"].items() if key in known and key not in _OWN}
    if limit := request["settings"].get("max_seq_length"):
        settings.setdefault("max_length", limit)
    fixed = {"output_dir": str(Path(request["folder"]) / "out"), "report_to": "none", "use_cpu": True, "bf16": False}
    config = config_class(**settings, **fixed)
    small = LlamaConfig(
        vocab_size=len(tokenizer) + 64,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    made = LlamaForSequenceClassification if name == "Reward" else LlamaForCausalLM
    models: dict[str, Any] = {"model": made(small)}
    if name in ("DPO", "KTO"):
        models["ref_model"] = made(small)
    return trainer_class(**models, args=config, train_dataset=rows, processing_class=tokenizer)


def _sequences(row: Row, trainer: Any) -> dict[str, Any]:
    if "chosen_labels" in row:
        sides = {side: (row[f"{side}_input_ids"], row[f"{side}_labels"]) for side in ("chosen", "rejected")}
        return {side: _sequence(ids, [label != -100 for label in labels]) for side, (ids, labels) in sides.items()}
    batch = {name: value.tolist() for name, value in trainer.data_collator([row]).items() if hasattr(value, "tolist")}
    if "labels" in batch:
        return {"": _sequence(batch["input_ids"][0], [label != -100 for label in batch["labels"][0]])}
    labelled = ["desirable" if row["label"] else "undesirable"] if "label" in row else []
    names = labelled or ["chosen", "rejected"]
    masks = batch.get("completion_mask", batch["attention_mask"])
    read = [sum(mask) for mask in batch["attention_mask"]]  # the collator pads, on the right
    each = zip(names, batch["input_ids"], masks, read, strict=True)
    return {name: _sequence(ids[:length], [bool(bit) for bit in mask[:length]]) for name, ids, mask, length in each}


def _sequence(ids: list[int], trained: list[bool]) -> dict[str, Any]:
    return {"ids": ids, "trained": trained}
