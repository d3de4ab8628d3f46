"""How much memory the worker takes for a data file that is larger than it should ever hold.

    python benchmarks/data_memory.py [--gib 2] [--save]

Makes a file of that size (the Alpaca demo rows over and over, each with its number) and runs, each as a whole command
on a two-layer model: `ftcli data prepare`, a training of a few steps on the prepared tokens (mapped), and one that
streams. The tokenizer knows whole words only: it makes fewer tokens than a real one, and in a tenth of the time.
Reported is the peak resident memory of the command and all of its processes, with that of a training on a thousand rows
beside it: libraries and model take most of either.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import peak_gib, save, versions
from peers.materials import CHATML, SPECIAL
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT.parent / "shared" / "data"
BUILD = ROOT / "build" / "data_memory"
LIMIT_GIB = 1.5


def make_rows(path: Path, size: int) -> int:
    """Write rows until the file has `size` bytes; returns their number."""
    rows = json.loads((DEMO / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    written, number = 0, 0
    with open(path, "w", encoding="utf-8") as file:
        while written < size:
            row = {**rows[number % len(rows)]}
            row["instruction"] = f"{number}. {row['instruction']}"
            written += file.write(json.dumps(row) + "\n")
            number += 1
    return number


def make_model(folder: Path) -> Path:
    """A tokenizer of the demo rows' words, and the configuration of a model that fits it."""
    words = Counter(re.findall(r"\w+|[^\w\s]+", (DEMO / "alpaca_en_demo.json").read_text(encoding="utf-8")))
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, "?", *(w for w in words if w != "?")])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    wrapped.chat_template = CHATML
    wrapped.save_pretrained(folder)
    LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=wrapped.eos_token_id,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    return folder


def measure(name: str, words: list[str], cache: Path) -> dict[str, Any]:
    """Peak resident memory of one ftcli command."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    found = {"command": name, "peak_gib": round(peak_gib(words, environment), 3)}
    print(f"{name:<40} {found['peak_gib']:>6} GiB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    if not DEMO.is_dir():
        print(f"not measured: there are no demo sets in {DEMO}")
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    model = make_model(BUILD / "model")
    large, small = BUILD / "large.jsonl", BUILD / "small.jsonl"
    rows = make_rows(large, int(options.gib * 1024**3))
    make_rows(small, 800_000)
    print(f"{rows} rows, {large.stat().st_size / 1024**3:.2f} GiB", flush=True)
    base = [f"model.name_or_path={model}", "model.init=random", "train.max_steps=3", "train.save_strategy=no"]
    base += [
        "train.per_device_train_batch_size=2",
        "train.gradient_accumulation_steps=1",
        "hardware=cpu",
        "run.score_rows=0",
        "data.max_length_tokens=256",
    ]
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        cache = Path(folder) / "cache"

        def train(name: str, path: Path, *more: str) -> dict[str, Any]:
            words = ["train", f"data.path={path}", *base, *more, f"run.dir={folder}/{len(found)}"]
            return measure(name, words, cache)

        found: list[dict[str, Any]] = []
        found.append(train("train, a thousand rows", small))
        found.append(train("train data.streaming=true", large, "data.streaming=true"))
        found.append(measure("data prepare", ["data", "prepare", str(large), *base], cache))
        found.append(train("train, prepared tokens mapped", large))
        stored = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1024**3
        shutil.rmtree(cache)
    large.unlink()
    peak = max(each["peak_gib"] for each in found)
    print(f"peak {peak:.3f} GiB, limit {LIMIT_GIB}; {stored:.2f} GiB of prepared tokens")
    if options.save:
        about = {"file_gib": options.gib, "rows": rows, "prepared_gib": round(stored, 2), "limit_gib": LIMIT_GIB}
        save("data_memory", {**about, "commands": found, "when": time.strftime("%Y-%m-%d"), "versions": versions()})


if __name__ == "__main__":
    main()
