"""The house keeps its rules, and every rule finds what breaks it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftcli.core import assets
from ftcli.methods import all_methods, all_pipelines
from ftcli.peft_methods import PEFT_METHODS
from tests.conftest import REPOSITORY
from tests.tools.planted import plant
from tools import house_rules as rules
from tools.source_tree import House, read_house

Rule = Callable[[House], Iterator[rules.Violation]]
FTCLI = read_house(REPOSITORY / "ftcli")
BESIDE = [read_house(REPOSITORY / name) for name in ("tests", "tools", "benchmarks")]


def assert_none(violations: Iterator[rules.Violation]) -> None:
    """Fail with every violation, each with its place and its remedy."""
    if lines := [str(each) for each in sorted(violations)]:
        pytest.fail("\n".join(lines), pytrace=False)


def test_the_root_holds_only_rooms_and_the_doors():
    assert_none(rules.every_module_has_a_room(FTCLI))


def test_a_room_imports_only_rooms_before_its_own():
    assert_none(rules.order_of_rooms(FTCLI))


def test_the_worker_knows_nothing_of_argv_hydra_or_recipes_and_nobody_imports_the_worker():
    assert_none(rules.forbidden_rooms(FTCLI))


def test_neither_files_nor_rooms_go_in_circles():
    assert_none(rules.no_circles(FTCLI))


def test_the_front_half_imports_nothing_heavy():
    assert_none(rules.heavy_imports(FTCLI))


def test_only_config_imports_hydra():
    assert_none(rules.hydra_imports(FTCLI))


def test_only_the_command_line_prints_and_exits():
    assert_none(rules.one_room_speaks(FTCLI))


def test_nobody_prints_past_the_stream_that_cleans():
    assert_none(rules.one_stream_cleans(FTCLI))


def test_nobody_takes_a_private_name_of_another_module_tests_included():
    assert_none(rules.private_imports(FTCLI, *BESIDE))


def test_a_name_leads_to_one_module_of_the_front_half():
    assert_none(rules.one_name_one_module(FTCLI))


def test_the_name_of_a_module_says_its_content():
    assert_none(rules.telling_names(FTCLI))


def test_a_folder_holds_at_most_fifteen_modules():
    assert_none(rules.small_folders(FTCLI))


def test_files_are_rooms_one_can_see_across():
    for house in (FTCLI, read_house(REPOSITORY / "tools")):
        assert_none(rules.short_files(house))


def test_functions_have_at_most_sixty_lines():
    for house in (FTCLI, read_house(REPOSITORY / "tools")):
        assert_none(rules.short_functions(house))


# Each rule once more, on a sound package with one fault planted: (what is planted, rule, files, place it must name).
PLANTED: list[tuple[str, Rule, dict[str, str], str]] = [
    ("a loose module", rules.every_module_has_a_room, {"loose.py": ""}, "ftcli/loose.py:1"),
    ("a module called as a room", rules.every_module_has_a_room, {"plan.py": ""}, "ftcli/plan.py:1"),
    ("an unknown room", rules.every_module_has_a_room, {"attic/box.py": ""}, "ftcli/attic:1"),
    ("an unknown room of the worker", rules.every_module_has_a_room, {"worker/load.py": ""}, "ftcli/worker/load.py:1"),
    ("a file that is no module", rules.every_module_has_a_room, {"notes.txt": ""}, "ftcli/notes.txt:1"),
    ("an import upwards", rules.order_of_rooms, {"core/text.py": "import ftcli.cli.check\n"}, "ftcli/core/text.py:1"),
    (
        "an import upwards inside a function",
        rules.order_of_rooms,
        {"methods/sft.py": "def f():\n    from ftcli.config import compose\n"},
        "ftcli/methods/sft.py:2",
    ),
    (
        "an import upwards for the types only",
        rules.order_of_rooms,
        {"core/text.py": "import typing\n\nif typing.TYPE_CHECKING:\n    import ftcli.methods.reward\n"},
        "ftcli/core/text.py:4",
    ),
    (
        "a relative import upwards",
        rules.order_of_rooms,
        {"core/text.py": "from ..methods.reward import METHOD\n"},
        "ftcli/core/text.py:1",
    ),
    (
        "an import upwards by name",
        rules.order_of_rooms,
        {"core/text.py": 'import importlib\n\nimportlib.import_module("ftcli.methods.reward")\n'},
        "ftcli/core/text.py:3",
    ),
    (
        "an import upwards within the worker",
        rules.order_of_rooms,
        {"worker/models/load.py": "from ftcli.worker.commands.train import x\n"},
        "ftcli/worker/models/load.py:1",
    ),
    (
        "files of the data that know the mixture",
        rules.order_of_rooms,
        {"data/files/locate.py": "from ftcli.data.mixture import x\n"},
        "ftcli/data/files/locate.py:1",
    ),
    (
        "a renderer that knows a command",
        rules.order_of_rooms,
        {"cli/render/text.py": "from ftcli.cli.check import run\n"},
        "ftcli/cli/render/text.py:1",
    ),
    (
        "a worker that composes",
        rules.forbidden_rooms,
        {"worker/commands/data.py": "from ftcli.config.compose import composed\n"},
        "ftcli/worker/commands/data.py:1",
    ),
    (
        "a command that imports the worker",
        rules.forbidden_rooms,
        {"cli/chat.py": "def run():\n    from ftcli.worker.models import reward\n"},
        "ftcli/cli/chat.py:2",
    ),
    (
        "a circle of files in one room",
        rules.no_circles,
        {"core/a.py": "from ftcli.core import b\n", "core/b.py": "\nfrom ftcli.core.a import x\n"},
        "ftcli/core/a.py:1",
    ),
    (
        "a circle of rooms without a circle of files",
        rules.no_circles,
        {
            "core/a.py": "from ftcli.methods import sft\n",
            "methods/sft.py": "",
            "methods/dpo.py": "import ftcli.core.b\n",
        }
        | {"core/b.py": ""},
        "ftcli/core/a.py:1",
    ),
    ("torch in the front half", rules.heavy_imports, {"core/a.py": "\nimport torch.nn\n"}, "ftcli/core/a.py:2"),
    (
        "a heavy library in a function of a command",
        rules.heavy_imports,
        {"cli/a.py": "def run():\n    from transformers import AutoConfig\n"},
        "ftcli/cli/a.py:2",
    ),
    (
        "Hydra in a command",
        rules.hydra_imports,
        {"cli/a.py": "from hydra.core.override_parser import x\n"},
        "ftcli/cli/a.py:1",
    ),
    (
        "Hydra in the worker",
        rules.hydra_imports,
        {"worker/models/a.py": "import hydra\n"},
        "ftcli/worker/models/a.py:1",
    ),
    ("a print in a room", rules.one_room_speaks, {"core/a.py": "\nprint(1)\n"}, "ftcli/core/a.py:2"),
    ("an exit in a room", rules.one_room_speaks, {"core/a.py": "import sys\n\nsys.exit(2)\n"}, "ftcli/core/a.py:3"),
    ("an exit that is raised", rules.one_room_speaks, {"core/a.py": "raise SystemExit(2)\n"}, "ftcli/core/a.py:1"),
    (
        "a print in the worker",
        rules.one_room_speaks,
        {"worker/models/a.py": "print(1)\n"},
        "ftcli/worker/models/a.py:1",
    ),
    ("a print in a command", rules.one_stream_cleans, {"cli/a.py": "\nprint(1)\n"}, "ftcli/cli/a.py:2"),
    (
        "a stream taken from behind the one that cleans",
        rules.one_stream_cleans,
        {"core/a.py": "import sys\n\nsys.stderr.buffer.write(b'')\n"},
        "ftcli/core/a.py:3",
    ),
    (
        "the terminal by its number",
        rules.one_stream_cleans,
        {"worker/models/a.py": "import os\n\nos.write(2, b'')\n"},
        "ftcli/worker/models/a.py:3",
    ),
    (
        "an import of a private name",
        rules.private_imports,
        {"core/a.py": "from ftcli.core.errors import _hidden\n"},
        "ftcli/core/a.py:1",
    ),
    (
        "a private name taken off a module",
        rules.private_imports,
        {"core/a.py": "from ftcli.core import errors as e\n\nx = e._hidden\n"},
        "ftcli/core/a.py:3",
    ),
    (
        "a private name replaced by its string",
        rules.private_imports,
        {"core/a.py": "from ftcli.core import errors\n\nmonkeypatch.setattr(errors, '_hidden', 1)\n"},
        "ftcli/core/a.py:3",
    ),
    (
        "a private module",
        rules.private_imports,
        {"core/_b.py": "", "core/a.py": "import ftcli.core._b\n"},
        "ftcli/core/a.py:1",
    ),
    ("two modules of one name", rules.one_name_one_module, {"plan/errors.py": ""}, "ftcli/plan/errors.py:1"),
    (
        "two modules of one name, both in registries and neither a choice",
        rules.one_name_one_module,
        {"methods/base.py": "", "peft_methods/base.py": ""},
        "ftcli/peft_methods/base.py:1",
    ),
    ("a name that says nothing", rules.telling_names, {"core/words.py": ""}, "ftcli/core/words.py:1"),
    (
        "a folder whose name says nothing",
        rules.telling_names,
        {"data/parts/__init__.py": ""},
        "ftcli/data/parts/__init__.py:1",
    ),
    ("sixteen modules in a folder", rules.small_folders, {f"plan/m{n}.py": "" for n in range(16)}, "ftcli/plan/:1"),
    ("a module of 401 lines", rules.short_files, {"core/a.py": "x = 1\n" * 401}, "ftcli/core/a.py:401"),
    (
        "a function of 61 lines",
        rules.short_functions,
        {"core/a.py": "class A:\n    def f(self):\n" + "        x = 1\n" * 60},
        "ftcli/core/a.py:2",
    ),
]


@pytest.mark.parametrize(("rule", "files", "where"), [case[1:] for case in PLANTED], ids=[case[0] for case in PLANTED])
def test_a_planted_fault_is_found_with_its_place_and_a_remedy(rule, files, where, tmp_path):
    violations = list(rule(plant(tmp_path, files)))
    assert [each.where for each in violations] == [where]
    assert violations[0].what
    assert f"\n  fix: {violations[0].fix}" in str(violations[0])


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_sound_package_breaks_no_rule(rule, tmp_path):
    assert_none(rule(plant(tmp_path, {})))


def test_every_rule_holds_the_house_and_has_a_fault_planted_for_it():
    assert {case[1] for case in PLANTED} == {*rules.RULES}
    held = {n.attr for n in ast.walk(ast.parse(Path(__file__).read_text("utf-8"))) if isinstance(n, ast.Attribute)}
    assert {rule.__name__ for rule in rules.RULES} <= held


def test_limits_are_the_last_that_pass(tmp_path):
    edge = {f"plan/m{n}.py": "" for n in range(14)} | {"plan/full.py": "x = 1\n" * 400}
    edge |= {"core/a.py": "def f():\n" + "    x = 1\n" * 59, **{f"methods/m{n}.py": "METHOD = 1\n" for n in range(20)}}
    house = plant(tmp_path, edge)
    for rule in (rules.small_folders, rules.short_files, rules.short_functions):
        assert_none(rule(house))


def test_choices_and_commands_keep_the_names_that_users_type(tmp_path):
    names = {"methods/lora.py": "METHOD = 1\n", "peft_methods/lora.py": "METHODS = ()\n", "cli/errors.py": ""}
    names |= {"settings/backends/lora.py": "BACKEND = 1\n", "launch/profiles/lora.py": "PROFILE = 1\n"}
    house = plant(tmp_path, names)
    assert_none(rules.one_name_one_module(house))
    assert [*rules.repeated_stems(house, typed_too=True)] == ["errors", "lora"]


def test_tests_may_not_take_private_names_either(tmp_path):
    house = plant(tmp_path, {})
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("import os\nfrom ftcli.core.errors import _hidden\n", "utf-8")
    found = list(rules.private_imports(house, read_house(tmp_path / "tests")))
    assert [each.where for each in found] == ["tests/test_a.py:2"]


def test_a_method_is_one_file_and_one_choice():
    assert {*all_methods(), *all_pipelines()} == set(assets.choices("method"))
    assert not set(all_methods()) & set(all_pipelines())
    assert {"none", *PEFT_METHODS} == set(assets.choices("peft"))
    assert all(method.name == name for name, method in all_methods().items())


def test_no_branch_asks_for_a_method_by_name():
    names = {*all_methods(), *all_pipelines()}
    for module in FTCLI.modules.values():
        if FTCLI.room(module.name) in ("methods", "tiny"):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Compare):
                compared = [c.value for c in (node.left, *node.comparators) if isinstance(c, ast.Constant)]
                named = names & {value for value in compared if isinstance(value, str)}
                assert not named, f"{FTCLI.where(module.name, node.lineno)} asks for {named}: declare it in the method"
