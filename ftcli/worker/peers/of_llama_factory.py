"""LLaMA-Factory: the data set's converter and the stage's processor, as its `get_dataset` calls them.

Rows go through the processor one by one, since those that it drops leave no trace in what it returns for many.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

Request = dict[str, Any]
Row = dict[str, Any]

_STAGES = {"pretrain": "pt", "sft": "sft", "kto": "kto"}
"""The stage that prepares the rows of a method; of all others it is `rm`, which has two answers a row."""
_UNLIMITED = 1_000_000


def without_sound() -> None:
    """Let it be imported without torchaudio, which it needs for sound alone."""
    if "torchaudio" not in sys.modules:
        sys.modules["torchaudio"] = ModuleType("torchaudio")
        sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)


def arguments(settings: dict[str, Any], folder: Path) -> Any:
    """The tool's own arguments for a training that only prepares its rows.

    Args:
        settings: keys of a configuration, among them the model, the data sets and their folder.
        folder: where it may write.
    """
    from llamafactory.hparams import get_train_args

    fixed = {"do_train": True, "output_dir": str(folder / "out"), "use_cpu": True, "report_to": "none"}
    return get_train_args({"stage": "sft", "finetuning_type": "lora", **settings, **fixed})


def tokenise(request: Request) -> dict[str, Any]:
    """The tokens of every row of every set."""
    without_sound()
    found = [_of_set(request, number, each) for number, each in enumerate(request["sets"])]
    return {"version": metadata.version("llamafactory"), "sets": found}


def _of_set(request: Request, number: int, row_set: dict[str, Any]) -> list[Row]:
    from datasets import load_dataset
    from llamafactory.data import get_template_and_fix_tokenizer, loader
    from llamafactory.data.converter import align_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.model import load_tokenizer

    folder = Path(request["folder"]) / str(number)
    folder.mkdir()
    entry = {**row_set["settings"], "file_name": row_set["rows"]}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": entry}), encoding="utf-8")
    named = {"model_name_or_path": request["model"], "dataset": "rows", "dataset_dir": str(folder)}
    settings = {**request["settings"], **named, "packing": False}
    if request["whole"]:
        settings["cutoff_len"] = _UNLIMITED  # blocks are cut from the joined rows, and not from each one
    model, data, training, _, _ = arguments(settings, folder)
    loaded = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)
    [attributes] = get_dataset_list(["rows"], str(folder))
    rows = load_dataset("json", data_files=row_set["rows"], split="train")
    aligned = align_dataset(rows, attributes, data, training)
    stage = _STAGES.get(request["method"], "rm")
    # The public `get_dataset` makes the same processor, and hands it a thousand rows at a time.
    processor = loader._get_dataset_processor(data, stage, template, loaded["tokenizer"], loaded["processor"])
    return [_row(processor.preprocess_dataset({key: [value] for key, value in row.items()})) for row in aligned]


def _row(columns: dict[str, Any]) -> Row:
    if not any(columns.values()):
        return {"dropped": "it calls the row invalid"}
    if "chosen_input_ids" in columns:
        return {"sequences": {side: _sequence(columns, f"{side}_") for side in ("chosen", "rejected")}}
    name = "" if "kto_tags" not in columns else "desirable" if columns["kto_tags"][0] else "undesirable"
    return {"sequences": {name: _sequence(columns, "")}}


def _sequence(columns: dict[str, Any], prefix: str) -> dict[str, Any]:
    ids = list(columns[f"{prefix}input_ids"][0])
    labels = columns.get(f"{prefix}labels", [ids])[0]  # plain text has no labels of its own: all of it is trained
    return {"ids": ids, "trained": [label != -100 for label in labels]}
