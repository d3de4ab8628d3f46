"""What `ftcli recipe import` makes of real configurations of other tools, folder by folder.

    python -m benchmarks.imports "LLaMA-Factory=…/examples" "torchtune=…/recipes/configs" --save

The folders are the examples of the tools' own sources. Nothing of them is run; each recipe is checked and planned.
--save keeps what was saved of other names.

What the saved counts are of, each unpacked into a folder of its own (tests/external/test_peer_imports.py reads the same
in ../peers-fetched/ms-swift, ms-swift-args and torchtune, beside the project):

    github.com/modelscope/ms-swift at 3602360a562313afbf2ef6065fdf61f271a2c5b9: examples/ (428 .sh, .yaml and .json)
    github.com/pytorch/torchtune at bd2a0fc7c31430972728494fa01aaeeb0ebf1ba1: recipes/configs/ (197 .yaml)

    git archive COMMIT FOLDER | tar -x -C ../peers-fetched/NAME

    args.json of ms-swift 4.6.0: those that `swift sft` (LoRA, full), `swift pt` and `swift rlhf` (dpo, kto, orpo,
    simpo, rm, grpo, gkd, ppo) write, by `SftArguments(...).save_args()` and its kin without a training, at their
    defaults but for the model, the rows and the method
    torchtune 0.6.1: recipes/configs/ of its release on the Python index

LLaMA-Factory, Axolotl, the alignment handbook and TRL are the examples that their repositories have.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from ftcli.cli.jobs.imported import imported
from ftcli.config.conversion import LISTS, SUFFIXES
from ftcli.core.errors import ConfigError

RESULT = Path(__file__).parent / "results" / "imports.json"
MOST_REASONS = 12
"""Kinds of keys that are not carried over, as many as a folder's table names."""


def measured(folder: Path) -> dict[str, Any]:
    """The counts of one folder."""
    counts: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for path in sorted(each for each in folder.rglob("*") if each.suffix in SUFFIXES):
        counts["files"] += 1
        try:
            found = imported(path)
        except ConfigError as error:
            refused[error.problems[0].what.partition(",")[0]] += 1
            continue
        account = found.conversion.account
        counts["imported"] += 1
        counts.update(account.counts())
        counts["unsupported"] += bool(account.unsupported)
        complete = not account.unsupported
        counts["complete"] += complete
        counts["passed"] += complete and not found.problems
        counts["waiting"] += complete and bool(found.problems)
        dropped.update(each.key.partition("[")[0] for each in account.of("not_carried") if not each.inside)
    return {
        "counts": dict(counts),
        "refused": dict(refused.most_common()),
        "not_carried": dict(dropped.most_common(MOST_REASONS)),
    }


def main() -> None:
    """Measure the folders that are named, and print or save the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    found = {}
    for each in options.folders:
        name, _, folder = each.partition("=")
        found[name] = measured(Path(folder))
        counts = Counter(found[name]["counts"])
        keys = sum(counts[each] for each in LISTS)
        share = (counts["mapped"] + counts["changed"]) / max(1, keys)
        print(f"{name}: {counts['imported']} of {counts['files']} files, {keys} keys, {share:.1%} mapped or changed")
    if options.save:
        if RESULT.is_file():  # folders of another day keep their place and their counts
            found = {**json.loads(RESULT.read_text(encoding="utf-8")), **found}
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
