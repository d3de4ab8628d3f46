"""The example configurations of other tools, read where they lie beside the project, become recipes that pass.

Those of ms-swift and torchtune are fetched from their sources, as benchmarks/imports.py says.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.cli.jobs.imported import Imported, imported
from ftcli.config.conversion import SUFFIXES
from ftcli.core.errors import ConfigError
from tests.config.conversion.test_conversion import keys_in

PEERS = Path(__file__).parents[3] / "shared" / "peers"
FETCHED = Path(__file__).parents[3] / "peers-fetched"
TOOLS = {
    **{name: PEERS / name for name in ("llama-factory", "axolotl", "trl", "alignment-handbook")},
    **{name: FETCHED / name for name in ("ms-swift", "ms-swift-args", "torchtune")},
}
NO_TRAINING = (
    "is a configuration of accelerate",
    "is a configuration of DeepSpeed",
    "merges an adapter",
    "answers or measures",
    "describes a machine in a cloud",
    "has no command that trains",
    "is a training with Megatron or Ray",
    "starts swift sft with a configuration file",
    "is larger than 256 KiB",
)
OF_NO_TOOL = {"fsdp2.json", "distill.yaml", "sampling.yaml"}
"""Files of ms-swift that are no training: settings of a launcher, and of its sampler."""


def imported_or_none(path: Path) -> Imported | None:
    """An imported file; None for one that is said to be no training."""
    try:
        return imported(path)
    except ConfigError as error:
        of_none = path.name in OF_NO_TOOL and "of no tool that is known" in error.problems[0].what
        if of_none or error.problems[0].what.startswith(NO_TRAINING):
            return None
        raise


@pytest.mark.parametrize("tool", TOOLS)
def test_every_example_is_imported_or_said_to_be_no_training(tool):
    if not TOOLS[tool].is_dir():
        pytest.skip(f"no folder ../{TOOLS[tool].relative_to(PEERS.parents[1])} beside the project")
    keys = carried = 0
    for path in sorted(each for each in TOOLS[tool].rglob("*") if each.suffix in SUFFIXES):
        found = imported_or_none(path)
        if found is None:
            continue
        account = found.conversion.account
        names = [each.key for each in account.entries]
        assert sorted(set(names)) == sorted(keys_in(found.conversion.draft.file.data)), path
        assert len(names) == len(set(names)) + len(found.conversion.draft.file.overwritten), path
        counts = account.counts()
        keys += len(names)
        carried += counts["mapped"] + counts["changed"]
        assert account.unsupported or not found.problems, (path, found.problems)
    assert carried >= 0.85 * keys
