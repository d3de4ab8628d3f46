"""llama.cpp's server out of the package `xllamacpp`, as a process of its own:

    python -m ftcli.serving.llama_process FILE.gguf [--port N] [--context N] [--lora FILE]

prints its address as one line, answers until its standard input is closed, and ends. A process of its own since the
file may be a stranger's, which native code reads.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Any


def main(argv: list[str]) -> None:
    """Serve until the standard input is closed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--alias", default="")
    parser.add_argument("--lora", action="append", default=[])
    options = parser.parse_args(argv)
    xllamacpp: Any = importlib.import_module("xllamacpp")  # which ships no types
    params = xllamacpp.CommonParams()
    params.model.path = options.file
    params.hostnames = ["127.0.0.1"]
    params.port, params.n_parallel, params.warmup = options.port, 1, False
    if options.context:
        params.n_ctx = options.context
    if options.alias:
        params.model_alias = {options.alias}
    if options.lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in options.lora]
    threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    if threads:
        params.cpuparams.n_threads = threads
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    # Its threads end with the process: waiting for them would take as long as the answer that is under way.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
