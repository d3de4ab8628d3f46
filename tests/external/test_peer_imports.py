"""The example configurations of other tools, read where they lie beside the project, become recipes that pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ftcli.cli.jobs.imported import Imported, imported
from ftcli.core.errors import ConfigError
from tests.config.conversion.test_conversion import keys_in

PEERS = Path(__file__).parents[3] / "shared" / "peers"
NO_TRAINING = (
    "is a configuration of accelerate",
    "is a configuration of DeepSpeed",
    "merges an adapter",
    "answers or measures",
    "describes a machine in a cloud",
)


def imported_or_none(path: Path) -> Imported | None:
    """An imported file; None for one that is said to be no training."""
    try:
        return imported(path)
    except ConfigError as error:
        if error.problems[0].what.startswith(NO_TRAINING):
            return None
        raise


@pytest.mark.skipif(not PEERS.is_dir(), reason="no folder ../shared/peers beside the project")
@pytest.mark.parametrize("tool", ["llama-factory", "axolotl", "trl", "alignment-handbook"])
def test_every_example_is_imported_or_said_to_be_no_training(tool):
    keys = carried = 0
    for path in sorted(each for each in (PEERS / tool).rglob("*") if each.suffix in (".yaml", ".yml")):
        found = imported_or_none(path)
        if found is None:
            continue
        account = found.conversion.account
        names = [each.key for each in account.entries]
        assert sorted(set(names)) == sorted(keys_in(yaml.safe_load(path.read_text()))), path
        assert len(names) == len(set(names)) + len(found.conversion.draft.file.overwritten), path
        counts = account.counts()
        keys += len(names)
        carried += counts["mapped"] + counts["changed"]
        assert account.unsupported or not found.problems, (path, found.problems)
    assert carried >= 0.85 * keys
