"""Peak memory and time of our ORPO and CPO against those of trl.experimental, on the same work.

    python benchmarks/reference_free.py [--vocabulary 32768] [--rounds 3] [--save]

A random llama with few narrow layers and a real vocabulary takes the same steps on the same pairs of tokens, in a
process of its own for each side, in an order that turns from round to round, with one thread. Memory is what the steps
add to what stood before the first: weights and libraries are the same on both sides, and the tensor of logits, which
the fused head never builds, is what differs. Told are medians, and medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import save, versions

METHODS = ("orpo", "cpo")
STEPS, BATCH, PROMPT_TOKENS, ANSWER_TOKENS = 4, 4, 64, 192


def measure(side: str, method: str, vocabulary: int) -> dict[str, float]:
    """Train in this process: MiB that the steps added, and seconds a step after the first."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback

    from ftcli import tiny

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **shape))
    tokenizer = AutoTokenizer.from_pretrained(tiny.MODEL_DIR)
    words = [5 + index % 900 for index in range(4096)]

    def tokens(row: int, part: int, count: int) -> list[int]:
        start = (row * 97 + part * 31) % 2048
        return words[start : start + count]

    rows = [
        {
            "prompt": tokens(i, 0, PROMPT_TOKENS),
            "chosen": tokens(i, 1, ANSWER_TOKENS),
            "rejected": tokens(i, 2, ANSWER_TOKENS),
        }
        for i in range(STEPS * BATCH)
    ]
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            times.append(time.process_time())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times.append(time.process_time())

    values = {
        "per_device_train_batch_size": BATCH, "max_steps": STEPS, "report_to": "none", "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "save_strategy": "no", "logging_strategy": "no", "beta": 0.1,
        "remove_unused_columns": False, "disable_tqdm": True, "learning_rate": 1e-5, "max_length": None,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        if side == "ours":
            from ftcli.methods import get_method
            from ftcli.worker.training.library_configs import load_class
            from ftcli.worker.training.trainer import make_trainer

            declared = get_method(method)
            config = load_class(declared.config)(folder, **values, **declared.fixed)
            data = Dataset.from_list([{f"{name}_ids": ids for name, ids in row.items()} for row in rows])
            trainer = make_trainer(declared, config, model, tokenizer, train=data, held_out=None)
        else:
            from trl.experimental.cpo import CPOConfig, CPOTrainer
            from trl.experimental.orpo import ORPOConfig, ORPOTrainer

            kinds = {"orpo": (ORPOConfig, ORPOTrainer), "cpo": (CPOConfig, CPOTrainer)}
            config_class, trainer_class = kinds[method]
            texts = [{name: tokenizer.decode(ids) for name, ids in row.items()} for row in rows]
            trainer = trainer_class(
                model,
                config_class(folder, **values),
                train_dataset=Dataset.from_list(texts),
                processing_class=tokenizer,
            )
            trainer.train_dataset = Dataset.from_list([_theirs(row) for row in rows])
        trainer.add_callback(Clock())
        before = _resident()
        trainer.train()
    steps = [end - start for start, end in zip(times[::2], times[1::2], strict=True)]
    return {"mib": _peak() - before, "seconds": median(steps[1:])}


def _theirs(row: dict[str, list[int]]) -> dict[str, list[int]]:
    """A row of tokens as the experimental trainers lay it out."""
    found = {"prompt_input_ids": row["prompt"], "prompt_attention_mask": [1] * len(row["prompt"])}
    for name in ("chosen", "rejected"):
        whole = row["prompt"] + row[name]
        found[f"{name}_input_ids"] = whole
        found[f"{name}_attention_mask"] = [1] * len(whole)
        found[f"{name}_labels"] = [-100] * len(row["prompt"]) + row[name]
    return found


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "METHOD"), help="one side, in this process")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.vocabulary)))
        return
    found: dict[str, Any] = {}
    for method in METHODS:
        rounds = []
        for number in range(options.rounds):
            sides = ("ours", "theirs") if number % 2 == 0 else ("theirs", "ours")
            rounds.append({side: _in_a_process(side, method, options.vocabulary) for side in sides})
        found[method] = {
            side: {unit: median(each[side][unit] for each in rounds) for unit in ("mib", "seconds")}
            for side in ("ours", "theirs")
        }
        for unit in ("mib", "seconds"):
            found[method][f"{unit}_ratio"] = median(each["ours"][unit] / each["theirs"][unit] for each in rounds)
        print(method, json.dumps(found[method]), flush=True)
    worse = [name for name, each in found.items() if each["mib_ratio"] >= 1 or each["seconds_ratio"] > 1]
    if worse:
        raise SystemExit(f"no lower in memory, or slower: {', '.join(worse)}")
    if options.save:
        work = {"steps": STEPS, "batch": BATCH, "prompt_tokens": PROMPT_TOKENS, "answer_tokens": ANSWER_TOKENS}
        about = {"schema": 1, "vocabulary": options.vocabulary, "rounds": options.rounds, **work}
        save("reference_free", {**about, "load": os.getloadavg()[0], "versions": versions(), "methods": found})


def _in_a_process(side: str, method: str, vocabulary: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--vocabulary", str(vocabulary), "--measure", side, method]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
