"""Axolotl's preparation: `load_datasets`, as `axolotl preprocess` calls it.   ROWS TOKENIZER NUM_PROC

The prepared data set is also written to disk: Axolotl always does so. It writes from a spawned process, which imports
this file anew; Axolotl's own imports, ten seconds of them, therefore stand where only the first process passes.
Alpaca rows go through ChatML written as a format, which took less time in every trial than conversations through
the tokenizer's chat template (also understood: a rows file named messages-*), and lacks one line break a row.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from report import LONGEST, run  # isort: skip  # which finds the next
from of_axolotl import configuration

CHATML = "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n"
AS_FORMAT = {
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "format": CHATML,
    "no_input_format": CHATML.replace("\n{input}", ""),
}


def config(rows: Path, tokenizer: Path, num_proc: int) -> Any:
    kind = "chat_template" if rows.name.startswith("messages") else AS_FORMAT
    settings = {
        "base_model": str(tokenizer),
        "datasets": [{"path": str(rows), "ds_type": "json", "type": kind}],
        "sequence_len": LONGEST,
        "dataset_num_proc": num_proc,
    }
    if kind == "chat_template":
        settings["chat_template"] = "tokenizer_default"
    return configuration(settings, Path(tempfile.mkdtemp()))


def prepared(rows: Path, tokenizer: Path, num_proc: int) -> Any:
    with disable_datasets_caching():
        return load_datasets(cfg=CONFIG, cli_args=PreprocessCliArgs(debug_num_examples=0)).train_dataset


if __name__ == "__main__":
    from axolotl.cli.args import PreprocessCliArgs
    from axolotl.common.datasets import load_datasets
    from axolotl.utils.trainer import disable_datasets_caching

    CONFIG = config(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), int(sys.argv[3]))
    run(prepared, "axolotl")
