"""LLaMA-Factory's preparation: `get_dataset`, as its SFT stage calls it.   ROWS TOKENIZER NUM_PROC"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from report import LONGEST, run


def arguments(rows: Path, tokenizer: Path, num_proc: int) -> Any:
    folder = Path(tempfile.mkdtemp())
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": str(rows)}}), encoding="utf-8")
    return get_train_args(
        {
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "model_name_or_path": str(tokenizer),
            "template": "chatml",
            "dataset": "rows",
            "dataset_dir": str(folder),
            "cutoff_len": LONGEST,
            "preprocessing_num_workers": None if num_proc == 1 else num_proc,
            "output_dir": str(folder / "out"),
            "use_cpu": True,
            "report_to": "none",
        }
    )


def prepared(rows: Path, tokenizer: Path, num_proc: int) -> Any:
    model_args, data_args, training_args, _, _ = ARGUMENTS
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    return get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)["train_dataset"]


if __name__ == "__main__":
    # It imports torchaudio to read sound, which no row here has, and there is none for this build of torch.
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)

    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    ARGUMENTS = arguments(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), int(sys.argv[3]))
    run(prepared, "llamafactory")
