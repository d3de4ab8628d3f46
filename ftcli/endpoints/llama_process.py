"""llama.cpp's server out of the package `xllamacpp`, as a process of its own:

    python -m ftcli.endpoints.llama_process --model FILE.gguf [--port N] [--ctx-size N] …

takes words as `llama-server` does, prints its address as one line, answers until its standard input is closed, and
ends. A process of its own since the file may be a stranger's, which native code reads.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Any

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0")
FLASH_ATTENTION = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--alias", default="")
    parser.add_argument("--lora", action="append", default=[])
    parser.add_argument("--ctx-size", type=int)
    parser.add_argument("--n-gpu-layers", type=int)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS") or 0))
    parser.add_argument("--cache-type-k", choices=CACHE_TYPES)
    parser.add_argument("--cache-type-v", choices=CACHE_TYPES)
    parser.add_argument("--flash-attn", choices=tuple(FLASH_ATTENTION))
    return parser.parse_args(argv)


def _params(options: argparse.Namespace, xllamacpp: Any) -> Any:
    """The options as the package has them; what is not given stays as llama.cpp has it."""
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames = ["127.0.0.1"]
    params.port, params.n_parallel, params.warmup, params.use_jinja = options.port, 1, False, True
    if options.ctx_size is not None:
        params.n_ctx = options.ctx_size
    if options.n_gpu_layers is not None:
        params.n_gpu_layers = options.n_gpu_layers
    if options.alias:
        params.model_alias = {options.alias}
    if options.lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in options.lora]
    if options.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    for part in ("cache_type_k", "cache_type_v"):
        if (name := getattr(options, part)) is not None:
            setattr(params, part, xllamacpp.ggml_type[f"GGML_TYPE_{name.upper()}"])
    if options.flash_attn is not None:
        kind = f"LLAMA_FLASH_ATTN_TYPE_{FLASH_ATTENTION[options.flash_attn]}"
        params.flash_attn_type = xllamacpp.llama_flash_attn_type[kind]
    return params


def main(argv: list[str]) -> None:
    """Serve until the standard input is closed."""
    options = _options(argv)
    xllamacpp: Any = importlib.import_module("xllamacpp")  # which ships no types
    server = xllamacpp.Server(_params(options, xllamacpp))
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    # Its threads end with the process: waiting for them would take as long as the answer that is under way.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
