"""The figures of a house, counted by hand on small packages."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conftest import REPOSITORY
from tests.tools.planted import SOUND, plant
from tools.house import best_order, comments, documented, measure, measure_all, table
from tools.house_rules import ORDERS
from tools.source_tree import circles, components, longest_chain, read_house

# a, b and c reach each other; d is above them, e and f below: d > (a b c) > e > f
GRAPH = {"a": {"b"}, "b": {"c", "e"}, "c": {"a"}, "d": {"a", "f"}, "e": {"f"}, "f": set()}


def small(folder, files):
    """A package `p` of these files and no others."""
    for name, text in files.items():
        path = folder / "p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return read_house(folder / "p")


def test_a_circle_counts_once_in_the_longest_chain():
    assert circles(GRAPH) == [["a", "b", "c"]]
    assert longest_chain(GRAPH) == ["d", "a + b + c", "e", "f"]
    assert [set(c) for c in components(GRAPH)] == [{"f"}, {"e"}, {"a", "b", "c"}, {"d"}]


def test_an_empty_house_has_no_chain_and_no_circle():
    assert longest_chain({}) == []
    assert circles({}) == []


def test_every_spelling_of_an_import_is_resolved(tmp_path):
    house = small(
        tmp_path,
        {
            "__init__.py": "",
            "one/__init__.py": "from . import inner\n",  # in an __init__ one dot is the folder itself
            "one/inner.py": "from .. import two\nfrom ..two import name\nimport os\n",
            "one/far.py": "def f():\n    import p.one.inner as i\n    from p.one import inner, other\n",
            "two.py": "from importlib import import_module\n\nimport_module('p.three')\nimport_module(f'p.{1}')\n",
            "three.py": "import threading\n",
        },
    )
    assert house.files == {
        "p": set(),
        "p.one": {"p.one.inner"},
        "p.one.inner": {"p.two"},
        "p.one.far": {"p.one.inner", "p.one"},  # `other` is no module: it is a name of the folder's __init__
        "p.two": {"p.three"},
        "p.three": set(),
    }
    assert house.rooms == {"one": {"two"}, "two": {"three"}, "three": set()}
    assert house.where("p.one.far", 2) == "p/one/far.py:2"


def test_rooms_without_a_declared_order_are_counted_against_the_best_one(tmp_path):
    # a <-> b, b <-> c, c <-> d: of six arrows three point back in any order
    texts = {"a": "b", "b": "a, c", "c": "b, d", "d": "c"}
    house = small(tmp_path, {f"{room}.py": f"from p import {others}\n" for room, others in texts.items()})
    figures = measure(house, ORDERS[""])
    assert len(figures["back_arrows"]) == 3
    assert figures["arrows"] == 6
    assert figures["largest_knot"] == 4
    assert figures["file_circles"] == ["p.a + p.b + p.c + p.d"]


def test_the_best_order_of_a_ring_turns_one_arrow_back():
    ring = {name: {after} for name, after in zip("abcdef", "bcdefa", strict=True)}
    order = best_order([*ring], ring)
    place = {name: at for at, name in enumerate(order)}
    assert sum(place[after] > place[name] for name, (after,) in ring.items()) == 1


def test_a_declared_order_tells_which_arrows_point_back(tmp_path):
    files = {"top/a.py": "", "mid/a.py": "import p.top.a\nimport p.low.a\n", "low/a.py": "import p.top.a\n"}
    house = small(tmp_path, files)
    assert measure(house, ("low", "mid", "top"))["back_arrows"] == ["low -> top", "mid -> top"]


def test_comments_are_counted_but_not_what_speaks_to_a_checker(tmp_path):
    text = '# why\nx = "# no comment"  # noqa: E501\ny = 1  # why\nz = 1  # type: ignore\n\n'
    assert comments(small(tmp_path, {"a.py": text})) == 40  # 2 of 5 lines


def test_private_names_need_no_docstring(tmp_path):
    # public: the module, f (documented) and A; not _g
    text = 'def f():\n    """Says."""\n\ndef _g(): ...\n\nclass A: ...\n'
    assert documented(small(tmp_path, {"a.py": text})) == 33.3


def test_worker_and_data_are_measured_as_houses_of_their_own(tmp_path):
    plant(tmp_path, {})
    figures = measure_all(tmp_path / "ftcli")
    assert [*figures] == ["package", "worker/", "data/"]
    assert figures["package"]["rooms"] == ["cli", "config", "core", "data", "methods", "worker"]
    assert figures["package"]["floors"] == ["cli", "config", "core"]
    assert figures["worker/"]["rooms"] == ["commands", "models"]
    assert figures["worker/"]["floors"] == ["commands", "models"]
    assert figures["data/"]["rooms"] == ["files", "mixture"]
    # __main__ > commands.train > models.reward; methods.reward lies in another house
    assert len(figures["worker/"]["file_chain"]) == 3


def test_a_table_compares_two_states(tmp_path):
    modules = sum(name.endswith(".py") for name in SOUND)
    plant(tmp_path / "before", {"cli/words.py": ""})
    plant(tmp_path / "after", {})
    before, after = (measure_all(tmp_path / state / "ftcli") for state in ("before", "after"))
    lines = table(after, before).splitlines()
    assert lines[2] == "| figure | before | after |"
    assert f"| modules | {modules + 1} | {modules} |" in lines
    assert "| module names that say nothing | 1 | 0 |" in lines


def test_the_script_runs_from_anywhere_and_speaks_json(tmp_path):
    plant(tmp_path, {})
    command = [sys.executable, str(REPOSITORY / "tools" / "house.py"), "ftcli", "--against", "ftcli", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["before"] == figures["after"] == measure_all(tmp_path / "ftcli")
