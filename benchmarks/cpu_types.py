"""What bfloat16 takes on a CPU, beside float32: forward and backward passes of llamas of several sizes, with LoRA.

    python benchmarks/cpu_types.py [--rounds 5] [--save]

One thread, 4 rows of 200 tokens, under autocast as `train.bf16=true` trains; the two types in turns, the median of the
rounds. The same again as CPUs compute that have AVX-512 alone, or AVX2 alone: oneDNN, which multiplies for torch, is
asked to use no newer instructions (ONEDNN_MAX_CPU_ISA).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

from common import save, versions

SIZES = ((256, 4, 8192), (512, 8, 32000), (576, 12, 49152))
"""Width, layers and vocabulary."""
INSTRUCTIONS = {"those of this CPU": "ALL", "AVX-512 without bfloat16": "AVX512_CORE", "AVX2": "AVX2"}
ROWS, TOKENS = 4, 200


def timed(width: int, layers: int, vocabulary: int, rounds: int) -> dict[str, Any]:
    """Seconds of a forward and a backward pass in each type."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    heads = width // 64
    shape = {"hidden_size": width, "intermediate_size": width * 8 // 3 // 8 * 8, "num_hidden_layers": layers}
    config = LlamaConfig(
        vocab_size=vocabulary, num_attention_heads=heads, num_key_value_heads=heads, tie_word_embeddings=True, **shape
    )
    model = LlamaForCausalLM(config)
    parameters = model.num_parameters()
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear"))
    ids = torch.randint(0, vocabulary, (ROWS, TOKENS))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds + 1):
        for half, taken in seconds.items():
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            model.zero_grad()
            taken.append(time.perf_counter() - began)
    float32, bfloat16 = (median(taken[1:]) for taken in seconds.values())
    return {"parameters": parameters, "float32": round(float32, 3), "bfloat16": round(bfloat16, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/cpu_types.json")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(timed(*json.loads(options.only), options.rounds)))
        return
    measured: list[dict[str, Any]] = []
    for name, instructions in INSTRUCTIONS.items():
        # On AVX2 a pass of the larger ones takes minutes.
        for size in SIZES[:1] if instructions == "AVX2" else SIZES:
            words = [sys.executable, __file__, "--only", json.dumps(size), "--rounds", str(options.rounds)]
            environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            measured.append({"instructions": name, **json.loads(done.stdout.splitlines()[-1])})
            print(measured[-1], flush=True)
    if options.save:
        about = {"rows": ROWS, "tokens": TOKENS, "rounds": options.rounds, "load": round(os.getloadavg()[0], 2)}
        save("cpu_types", {"schema": 1, "versions": versions(), **about, "measured": measured})


if __name__ == "__main__":
    main()
