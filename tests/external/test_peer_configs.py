"""Every key of the example configurations of other tools, read where they lie beside the project, is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ftcli.config.importers import all_importers
from ftcli.settings.groups import GROUPS

PEERS = Path(__file__).parents[3] / "shared" / "peers"
OURS = {"seed", *GROUPS, "run"}


@pytest.mark.skipif(not PEERS.is_dir(), reason="no folder ../shared/peers beside the project")
@pytest.mark.parametrize("tool", ["llama-factory", "axolotl", "trl", "alignment-handbook"])
def test_every_key_of_the_tools_own_examples_is_known(tool):
    known = {name for each in all_importers().values() for row in each.keys for name in row.names}
    missing = set()
    for path in [*(PEERS / tool).rglob("*.yaml"), *(PEERS / tool).rglob("*.yml")]:
        data = yaml.safe_load(path.read_text())
        missing |= {key for key in data if key not in known and key not in OURS} if isinstance(data, dict) else set()
    assert not missing
