"""ftcli beside those who do the same: a script on TRL, LLaMA-Factory, Axolotl and ms-swift, in turns.

    python benchmarks/against_contenders.py [--only sft,dpo] [--pairs 2] [--steps 12] [--save]

All train a random Llama of five million parameters (or --model FOLDER, with its weights) with LoRA of rank 8 on all
linear layers, in float32 (or with --bfloat16 in that) with sdpa on a CPU with one thread, on the same rows of the demo
sets, by the command that their users type. Each runs at the fastest of its settings that are exact: without its own
trackers, checkpoints and gradient checkpointing, without padding or with rows of one length together where it has such
a setting, packed where packing keeps documents apart.

Tokens a second are counted alike: a module planted into each Python (contenders/watch) counts what is no padding in
the batches that transformers' trainer is given, and notes when a step ends; the first three steps are dropped. A
preference counts its prompt twice, as both of its rows have it; KTO's mismatched rows count nowhere. The time to the
first step begins with the command. Memory is that of the command's largest process. Every run has empty caches.

Further measures: `leaks` computes a tool's own first packed batch twice, the second time with another first document,
and the states of all later documents must not move; `processes` are two gloo processes of ftcli beside one, `blocks`
its packed steps of ever more tokens.

The environments of contenders are those of peers/environment.py, under --peers; the first run makes them. Results of
measures that are not run stay in benchmarks/results/contenders.json as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from common import RESULTS, save, versions
from contenders import scaling
from contenders.files import make_model
from contenders.measures import CONTENDERS, MEASURES, OURS, Found, leaks, rounds
from contenders.run import BUILD, ROOT, version_of
from peers.environment import NotInstallable, python_of

LEAKS, PROCESSES, BLOCKS = "leaks", "processes", "blocks"
FURTHER = (LEAKS, PROCESSES, BLOCKS)
"""Measures that are no table of contenders."""


def pythons_of(names: list[str], peers: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The interpreter of each contender, and why some have none."""
    found, missing = {}, {}
    for name in names:
        each = CONTENDERS[name]
        try:
            torch = metadata.version("torch").partition("+")[0]
            found[name] = python_of(each.home or name, each.alone, peers, torch)
        except NotInstallable as reason:
            missing[name] = str(reason)
    return found, missing


def further(name: str, options: argparse.Namespace, pythons: dict[str, Path], model: Path) -> dict[str, Any]:
    """One of FURTHER, as JSON."""
    found: dict[str, Any] = {"load": round(os.getloadavg()[0], 2), "model": model.name, "pairs": options.pairs}
    if name == PROCESSES:
        found |= scaling.processes(model, options.demo, pythons[OURS], options.pairs)
    elif name == BLOCKS:
        found |= scaling.blocks(model, pythons[OURS], options.pairs)
    else:
        found["contenders"] = {}
        for tool, told in leaks(MEASURES["packed"].work(model, options.demo, None), pythons):
            found["contenders"][tool] = told
            print(f"{name:10} {tool:13} {told}", flush=True)
        return found
    print(f"{name:10} {found}", flush=True)
    return found


def measured(name: str, options: argparse.Namespace, pythons: dict[str, Path], model: Path) -> dict[str, Any]:
    """One measure, as JSON."""
    began, load = time.perf_counter(), os.getloadavg()[0]
    measure = MEASURES[name]
    work = measure.work(model, options.demo, options.steps, bfloat16=options.bfloat16)
    about = {
        "pairs": options.pairs,
        "load": round(load, 2),
        "model": model.name,
        "rows": measure.num_rows,
        "bfloat16": options.bfloat16,
    }
    found = Found()
    for line in rounds(measure, work, pythons, options.pairs, found):
        print(f"{name:10} {line}", flush=True)
    medians = {
        tool: {name: median(each[name] for each in runs) for name in measure.numbers if runs[0][name] is not None}
        for tool, runs in found.runs.items()
    }
    ratios = {number: found.ratios(number) for number in measure.numbers}
    print(f"{name:10} ours / best: {ratios}, {time.perf_counter() - began:.0f} s", flush=True)
    shape = {"what": measure.what, "batch": measure.batch, "longest": measure.longest}
    runs = {"medians": medians, "ratios": ratios, "cannot": found.cannot, "runs": found.runs}
    return {**shape, **about, **runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of measures, with commas between them")
    parser.add_argument("--contenders", help="their names, with commas between them", default=",".join(CONTENDERS))
    parser.add_argument("--pairs", type=int, default=2, help="rounds of all contenders")
    parser.add_argument("--steps", type=int, help="in place of one pass over the rows of a measure")
    parser.add_argument("--model", type=Path, help="a model's folder in place of the random one")
    parser.add_argument("--bfloat16", action="store_true", help="computed in bfloat16, on a CPU that has it")
    parser.add_argument("--demo", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the demo sets")
    parser.add_argument("--peers", type=Path, default=BUILD / "peers", help="folder of the contenders' environments")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/contenders.json")
    options = parser.parse_args()
    if not options.demo.is_dir():
        print(f"not measured: there are no demo sets in {options.demo}")
        return
    names = options.only.split(",") if options.only else [*MEASURES, *FURTHER]
    if unknown := [name for name in names if name not in (*MEASURES, *FURTHER)]:
        sys.exit(f"no measures: {', '.join(unknown)}; there are {', '.join((*MEASURES, *FURTHER))}")
    pythons, missing = pythons_of(options.contenders.split(","), options.peers)
    model = options.model or make_model(BUILD / "contenders" / "model", options.demo)
    about = {name: version_of(CONTENDERS[name], python) for name, python in pythons.items()}
    for name in names:
        found = (further if name in FURTHER else measured)(name, options, pythons, model)
        if options.save:
            words = [name, *([model.name] if options.model else []), *(["bfloat16"] if options.bfloat16 else [])]
            key = " ".join(words)
            keep({key: found}, about, missing)


def keep(measures: dict[str, Any], about: dict[str, Any], missing: dict[str, str]) -> None:
    """Write them beside those that are there."""
    file = RESULTS / "contenders.json"
    there = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"measures": {}, "contenders": {}}
    result = {"schema": 1, "ours": OURS, "versions": versions(), "not_installable": missing}
    result["contenders"] = {**there["contenders"], **about}
    every = {**there["measures"], **measures}
    order = [*MEASURES, *FURTHER]  # those of another model follow theirs
    ordered = dict(sorted(every.items(), key=lambda each: order.index(each[0].partition(" ")[0])))
    save("contenders", {**result, "measures": ordered})


if __name__ == "__main__":
    main()
