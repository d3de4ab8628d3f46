"""Strangers' files are opened where they are checked, and nowhere else."""

from __future__ import annotations

import pytest

from tests.conftest import REPOSITORY
from tests.tools.planted import plant
from tools.reader_rules import READERS, one_gate, pickles_are_closed
from tools.source_tree import read_house

FTCLI = read_house(REPOSITORY / "ftcli")


@pytest.mark.parametrize("rule", [one_gate, pickles_are_closed], ids=lambda rule: rule.__name__)
def test_the_package_opens_them_in_listed_places_only(rule):
    if lines := [str(each) for each in rule(FTCLI)]:
        pytest.fail("\n".join(lines), pytrace=False)


def test_every_listed_place_still_reads_what_it_is_listed_for():
    for what, readers in READERS.items():
        for reader in readers:
            text = FTCLI.modules[f"ftcli.{reader}"].text
            assert what.strip('"') in text or f"def {what.partition('.')[2]}" in text, (what, reader)


@pytest.mark.parametrize(
    ("files", "rule", "where"),
    [
        ({"core/a.py": "\nRunSpec.load(x)\n"}, one_gate, "ftcli/core/a.py:2"),
        ({"core/a.py": "open(run / 'spec.json')\n"}, one_gate, "ftcli/core/a.py:1"),
        ({"core/a.py": "\n\nopen(run / 'adapter_config.json')\n"}, one_gate, "ftcli/core/a.py:3"),
        ({"core/a.py": "import pickle\n"}, one_gate, "ftcli/core/a.py:1"),
        ({"core/a.py": "def f():\n    from pickle import loads\n"}, one_gate, "ftcli/core/a.py:2"),
        ({"worker/models/a.py": "state = torch.load(x, weights_only=True)\n"}, one_gate, "ftcli/worker/models/a.py:1"),
        ({"worker/models/a.py": "torch.load(x)\n"}, pickles_are_closed, "ftcli/worker/models/a.py:1"),
        ({"worker/models/a.py": "torch.load(x, weights_only=y)\n"}, pickles_are_closed, "ftcli/worker/models/a.py:1"),
    ],
)
def test_a_planted_reader_is_found_with_its_place(files, rule, where, tmp_path):
    [found] = rule(plant(tmp_path, files))
    assert found.where == where
    assert found.fix
