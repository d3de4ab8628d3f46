"""LLaMA-Factory's preparation: `get_dataset`, as its SFT stage calls it.   ROWS TOKENIZER NUM_PROC"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import LONGEST, run  # isort: skip  # which finds the next
from of_llama_factory import arguments, without_sound


def settings(rows: Path, tokenizer: Path, num_proc: int) -> Any:
    folder = Path(tempfile.mkdtemp())
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": str(rows)}}), encoding="utf-8")
    chosen = {
        "model_name_or_path": str(tokenizer),
        "template": "chatml",
        "dataset": "rows",
        "dataset_dir": str(folder),
        "cutoff_len": LONGEST,
        "preprocessing_num_workers": None if num_proc == 1 else num_proc,
    }
    return arguments(chosen, folder)


def prepared(rows: Path, tokenizer: Path, num_proc: int) -> Any:
    model_args, data_args, training_args, _, _ = ARGUMENTS
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    return get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)["train_dataset"]


if __name__ == "__main__":
    without_sound()

    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.model import load_tokenizer

    ARGUMENTS = settings(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), int(sys.argv[3]))
    run(prepared, "llamafactory")
