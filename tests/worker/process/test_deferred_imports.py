"""A deferred library is itself when touched, and the answers given in a library's place are the library's own.

Each test is a process of its own: what is imported, and when, is what it is about.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ftcli.worker.process import deferred_imports
from tests.conftest import REPOSITORY


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Where a package `slow` lies that tells on stdout when it is executed, and has a module below it."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "__init__.py").write_text(
        "print('slow')\nfrom . import below\nfrom slow.below import value\n__version__ = '3'\n"
    )
    (tmp_path / "slow" / "below.py").write_text("print('below')\nimport slow\nvalue = 4\n")
    (tmp_path / "broken.py").write_text("print('broken')\nraise OSError('no such device')\n")
    return tmp_path


_DEFER = """
import importlib.util, sys
from ftcli.worker.process import deferred_imports
deferred_imports.DEFERRED.update(slow="", broken="")
deferred_imports.defer()
"""


def told(script: str, *paths: Path) -> list[str]:
    """The lines that a script prints after it has deferred `slow` and `broken`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, *paths)))}
    done = subprocess.run([sys.executable, "-c", _DEFER + script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("touch", "answer"),
    [
        ("print(slow.value)", "4"),
        ("print(slow.__version__)", "3"),
        ("print(slow.below.value)", "4"),
        ("from slow import value; print(value)", "4"),
        ("import slow.below as below; print(below.value)", "4"),
        ("from slow.below import value; print(value)", "4"),
        ("print(hasattr(slow, 'nothing'))", "False"),
    ],
)
def test_a_deferred_package_is_executed_once_when_touched_and_before_what_is_below_it(package, touch, answer):
    script = f"import slow\nimport slow as again\nprint('imported')\n{touch}\n{touch}\nprint(type(slow).__name__)"
    assert told(script, package) == ["imported", "slow", "below", answer, answer, "module"]


def test_asking_whether_a_deferred_package_is_there_does_not_execute_it(package):
    asked = "print(importlib.util.find_spec('slow').name, slow.__spec__.origin[-16:], slow.__file__[-16:])"
    assert told(f"{asked.split(',')[0]})\nimport slow\n{asked}", package) == [
        "slow",
        "slow slow/__init__.py slow/__init__.py",
    ]


def test_a_deferred_module_that_cannot_be_executed_says_why_each_time(package):
    attempt = "import broken\ntry:\n    broken.value\nexcept OSError as error:\n    print(error)\n"
    assert told(attempt * 2, package) == ["broken", "no such device"] * 2


def test_a_package_that_is_not_installed_is_not_found():
    assert told("try:\n    import slow\nexcept ModuleNotFoundError as error:\n    print(error)") == [
        "No module named 'slow'"
    ]


def test_peft_is_told_of_4_bit_layers_what_it_would_have_found():
    script = """
from peft import import_utils
answer = import_utils.is_bnb_4bit_available()
print("bitsandbytes" in deferred_imports.loaded())
import bitsandbytes
print(answer == hasattr(bitsandbytes.nn, "Linear4bit") == import_utils.is_bnb_4bit_available.__wrapped__())
print("bitsandbytes" in deferred_imports.loaded())
"""
    assert told(script) == ["False", "True", "True"]


def test_transformers_finds_the_names_in_each_of_its_files_that_it_would_have_found():
    script = """
from pathlib import Path
import transformers
from transformers.utils.import_utils import fetch__all__
texts = [path.read_text(encoding="utf-8") for path in Path(transformers.__file__).parent.rglob("*.py")]
odd = ["", "__all__ = ['a']", "x = __all__", "a\\x0c__all__ = ['b']"]
odd += ["a\\n__all__ = ['a']\\n__all__ = [\\n 'b',\\n]\\nc"]
print(len(texts) > 1000, all(fetch__all__(text) == fetch__all__.__wrapped__(text) for text in texts + odd))
"""
    assert told(script) == ["True True"]


def test_a_function_that_a_library_is_spared_for_is_the_library_s_own_when_called():
    script = """
import transformers.loss.loss_utils, transformers.loss.loss_rt_detr as loss
spared = [name for name in deferred_imports.SPARED if name in sys.modules]
assert len(spared) > 3, spared
print("scipy" in sys.modules)
print([each.tolist() for each in loss.linear_sum_assignment([[3, 1], [1, 3]])])
print("scipy.optimize" in sys.modules)
from scipy.optimize import minimize
"""
    assert told(script) == ["False", "[[0, 1], [1, 0]]", "True"]


def test_what_is_spared_is_all_that_takes_the_library():
    folder = Path(importlib.util.find_spec("transformers").submodule_search_locations[0]) / "loss"
    takes = re.compile(r"^ *from scipy.optimize import linear_sum_assignment$", re.MULTILINE)
    found = {f"transformers.loss.{file.stem}" for file in folder.glob("*.py") if takes.search(file.read_text("utf-8"))}
    assert found == {name for name, (library, _) in deferred_imports.SPARED.items() if library == "scipy.optimize"}


def test_the_distributions_of_a_package_are_those_that_metadata_names():
    script = """
from importlib import metadata
import importlib
whole = importlib.reload(metadata).packages_distributions()
deferred_imports.metadata = metadata
by_name = deferred_imports.Distributions(lambda: whole)
for name in ("torch", "transformers", "peft", "yaml", "PIL", "nothing_of_the_kind"):
    assert by_name.get(name) == whole.get(name), name
assert len(by_name) == len(whole) and set(by_name) == set(whole)
print("by name")
"""
    assert told(script) == ["by name"]
