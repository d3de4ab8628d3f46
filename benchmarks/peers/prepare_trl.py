"""TRL's preparation: `SFTTrainer._prepare_dataset` on prompt and completion turns.   ROWS TOKENIZER NUM_PROC

The trainer that owns the method is made before the clock starts, with one row and a two-layer model.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from datasets import Dataset, load_dataset
from report import LONGEST, run
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def trainer(tokenizer: str, num_proc: int) -> SFTTrainer:
    turn = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    args = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_length=LONGEST,
        dataset_num_proc=None if num_proc == 1 else num_proc,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    return SFTTrainer(
        model=AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tokenizer)),
        args=args,
        train_dataset=Dataset.from_list([turn]),
        processing_class=AutoTokenizer.from_pretrained(tokenizer),
    )


def prepared(rows: Path, tokenizer: Path, num_proc: int) -> Dataset:
    dataset = load_dataset("json", data_files=str(rows), split="train")
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    return OWNER._prepare_dataset(dataset, loaded, OWNER.args, OWNER.args.packing, None, "train")


if __name__ == "__main__":
    OWNER = trainer(sys.argv[2], int(sys.argv[3]))
    run(prepared, "trl")
