"""SmolLM2-135M Instruct, which FTCLI_REAL_MODELS names a folder with, and a short LoRA on it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.launch.local import prepare
from tests.conftest import REPOSITORY

MODELS = Path(os.environ.get("FTCLI_REAL_MODELS") or "/nonexistent")
ALPACA = REPOSITORY.parent / "shared" / "data" / "alpaca_en_demo.json"
NEEDED = [
    pytest.mark.skipif(not (MODELS / "smollm2").is_dir(), reason="set FTCLI_REAL_MODELS to a folder with smollm2"),
    pytest.mark.skipif(not ALPACA.is_file(), reason="no folder ../shared/data beside the project"),
]
ROWS = (f"data.path={ALPACA}", "data.max_rows=120", "data.max_length_tokens=80", "data.eval_share=0.2")
HOW = (
    "peft=lora", "hardware.num_threads=1", "train.per_device_train_batch_size=4", "run.score_rows=0",
    "train.gradient_accumulation_steps=1", "train.max_steps=6", "train.learning_rate=1e-3", "train.save_strategy=no",
)  # fmt: skip


def copied(folder: Path) -> Path:
    """SmolLM2 with the digits set apart, as in its published tokenizer; in one that was read out of a GGUF file they
    are not."""
    shutil.copytree(MODELS / "smollm2", folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    byte_level = tokenizer["pre_tokenizer"]
    if byte_level["type"] == "ByteLevel":
        parts = [{"type": "Digits", "individual_digits": True}, byte_level]
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


def trained(base: Path, run: Path) -> Path:
    """LoRA on SmolLM2, for six steps."""
    from ftcli.worker.training.run import train

    typed = (*ROWS, *HOW, f"model.name_or_path={base}", f"run.dir={run}")
    train(prepare(spec_of(Request(overrides=typed)), ["train", *typed]))
    return run
