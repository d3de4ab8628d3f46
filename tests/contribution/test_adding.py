"""What a contribution touches: each kind of thing is added to a copy of the repository and used, its files are counted.

The copy is a repository of its own, so git says what was touched. Additions stay in it, each committed before the next.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

TIMEOUT_SECONDS = 1200
AUTHOR = ("-c", "user.name=contributor", "-c", "user.email=contributor@example.org", "-c", "commit.gpgsign=false")
TINY = ("model=tiny", "hardware=cpu", "hardware.num_threads=1", "data.max_rows=32")


def git(folder: Path, *words: str) -> str:
    """What git says in a folder, without the settings of whoever runs the tests."""
    alone = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *AUTHOR, *words], cwd=folder, env=alone, check=True, capture_output=True, text=True)
    return done.stdout


@dataclass(frozen=True)
class Checkout:
    """A copy of the repository that someone adds to."""

    root: Path

    def write(self, path: str, text: str) -> None:
        """A new file; one that is there already would be a change of it."""
        assert not (self.root / path).exists(), f"{path} is there already"
        (self.root / path).write_text(text, encoding="utf-8")

    def insert(self, path: str, before: str, text: str) -> None:
        """Text before the first place where that stands in a file."""
        whole = (self.root / path).read_text(encoding="utf-8")
        head, found, tail = whole.partition(before)
        assert found, f"{path} holds no {before!r}"
        (self.root / path).write_text(head + text + found + tail, encoding="utf-8")

    def python(self, *words: str) -> str:
        """The output of Python with the code of this copy, which must end well."""
        here = {**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": ""}
        done = subprocess.run(
            [sys.executable, *words], cwd=self.root, env=here, capture_output=True, text=True,
            timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ftcli(self, *words: str) -> str:
        """The output of one command of this copy."""
        return self.python("-m", "ftcli", *words)

    def listed(self, kind: str) -> dict[str, str]:
        """What `ftcli list KIND` lists, each with its line."""
        found: dict[str, dict[str, str]] = json.loads(self.ftcli("list", kind, "--json"))
        return found[kind]

    def touched(self) -> list[str]:
        """Every file that is new, changed or gone since the last commit."""
        lines = git(self.root, "status", "--porcelain=v1", "--untracked-files=all").splitlines()
        return sorted(line[3:] for line in lines)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this repository in a new one; those that git ignores stay behind."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("git tells which files belong to the repository")
    root = tmp_path_factory.mktemp("contribution") / "checkout"
    names = git(REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, names):
        if (REPOSITORY / name).is_file() and not name.startswith("tests/fixtures/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, root / name)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "As it is")
    return root


@pytest.fixture
def checkout(copied: Path) -> Iterator[Checkout]:
    """The copy with nothing touched; what a test adds is committed behind it."""
    found = Checkout(copied)
    assert found.touched() == []
    yield found
    git(copied, "add", "--all")
    git(copied, "commit", "--quiet", "--allow-empty", "--message", "Add")


def checked_and_planned(checkout: Checkout, *words: str) -> str:
    """Both commands find nothing wrong; the plan is given."""
    checkout.ftcli("check", *words)
    return checkout.ftcli("plan", *words)


# --- two files --------------------------------------------------------------------------------------------------------

METHOD = '''"""Dynamic fine-tuning (Wu et al. 2025, arXiv:2508.05629): a token's loss is weighed by its probability."""

from dataclasses import replace

from ftcli.methods.sft import METHOD as SFT

METHOD = replace(
    SFT,
    name="dynamic",
    summary="Dynamic fine-tuning: supervised, but unlikely tokens pull less.",
    fixed={"loss_type": "dft"},
    limits={},
    paper="Wu et al. 2025, arXiv:2508.05629",
)
'''


def test_a_method_is_a_declaration_and_its_options_and_it_trains(checkout: Checkout, tmp_path: Path) -> None:
    checkout.write("ftcli/methods/dynamic.py", METHOD)
    line = "Dynamic fine-tuning: supervised, but unlikely tokens pull less."
    checkout.write("configs/method/dynamic.yaml", f"# {line}\nname: dynamic\npacking: null\n")
    assert checkout.listed("method")["dynamic"] == line
    assert "dynamic" in checked_and_planned(checkout, "method=dynamic", *TINY)
    run = tmp_path / "run"
    checkout.ftcli(
        "train", "method=dynamic", "peft=lora", *TINY, "train.max_steps=2", "train.save_strategy=no",
        "train.eval_strategy=no", "run.score_rows=0", f"run.dir={run}",
    )  # fmt: skip
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert (result["method"], result["steps"]) == ("dynamic", 2)
    assert (run / "model" / "adapter_model.safetensors").is_file()
    assert checkout.touched() == ["configs/method/dynamic.yaml", "ftcli/methods/dynamic.py"]


PEFT_METHOD = '''"""Fourier fine-tuning (Gao et al. 2024, arXiv:2405.03003): each update is a few Fourier terms."""

from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import Default

METHODS = (
    PeftMethod(
        name="fourier",
        kind="FOURIERFT",
        summary="A few coefficients of each update's spectrum: adapters of kilobytes.",
        paper="Gao et al. 2024, arXiv:2405.03003",
        config="peft.tuners.fourierft.config:FourierFTConfig",
        defaults={"n_frequency": 100, "target_modules": "all-linear"},
        limits={"n_frequency": Limit(low=1)},
        rate_factor=Default(value=100, source="Gao et al. 2024, table 9: 3e-2 where LoRA has 3e-4"),
    ),
)
'''


def test_a_peft_method_is_a_declaration_and_its_options(checkout: Checkout) -> None:
    checkout.write("ftcli/peft_methods/fourier.py", PEFT_METHOD)
    line = "A few coefficients of each update's spectrum: adapters of kilobytes."
    options = "n_frequency: 100\ntarget_modules: all-linear\n"
    checkout.write("configs/peft/fourier.yaml", f"# {line}\nname: fourier\n{options}")
    assert checkout.listed("peft")["fourier"] == line
    assert "peft.n_frequency" in checkout.ftcli("show", "peft", "peft=fourier")
    assert "fourier" in checked_and_planned(checkout, "peft=fourier", *TINY)
    assert checkout.touched() == ["configs/peft/fourier.yaml", "ftcli/peft_methods/fourier.py"]


def test_a_hardware_profile_is_a_declaration_and_its_options(checkout: Checkout) -> None:
    profiles = checkout.root / "ftcli" / "launch" / "profiles"
    declaration = (profiles / "cpu.py").read_text(encoding="utf-8")
    assert declaration.count('"cpu"') >= 1
    checkout.write("ftcli/launch/profiles/bench.py", declaration.replace('name="cpu"', 'name="bench"'))
    options = (checkout.root / "configs" / "hardware" / "cpu.yaml").read_text(encoding="utf-8")
    checkout.write("configs/hardware/bench.yaml", options.replace("type: cpu", "type: bench"))
    assert "bench" in checkout.listed("hardware")
    words = ("hardware=bench", "hardware.num_threads=1", "model=tiny", "data.max_rows=32")
    assert "bench" in checkout.ftcli("show", *words)
    checked_and_planned(checkout, *words)
    assert checkout.touched() == ["configs/hardware/bench.yaml", "ftcli/launch/profiles/bench.py"]


# --- one file ---------------------------------------------------------------------------------------------------------

FORMATS = "ftcli/data/formats/format_table.py"
ROUND_TRIPS = "tests/data/formats/test_formats.py"
CONVERTER = '''def from_exam(row: Fields, roles: Roles) -> Example:
    """An examination's task and its solution."""
    given = text(value_of(row, ("solution_text",))[1], "solution_text")
    return {"prompt": question_of(row, "task_text"), "completion": answer(given, "solution_text")}


'''
ENTRY = """        _format("exam", "pair", from_exam, Need(("task_text",), TEXT), Need(("solution_text",), TEXT)),
"""
ROUND_TRIP = """    (
        "exam",
        {"task_text": "2 + 2?", "solution_text": "4"},
        {"prompt": [user("2 + 2?")], "completion": [assistant("4")]},
    ),
"""


def test_a_data_format_is_a_function_with_its_entry_and_a_row_of_the_test(checkout: Checkout, tmp_path: Path) -> None:
    checkout.insert(FORMATS, "FORMATS: dict", CONVERTER)
    checkout.insert(FORMATS, '        _format("text",', ENTRY)
    checkout.insert(ROUND_TRIPS, '    ("prompt", {"prompt": "2 + 2 ="', ROUND_TRIP)
    rows = tmp_path / "exam.jsonl"
    rows.write_text('{"task_text": "2 + 2?", "solution_text": "4"}\n' * 8, encoding="utf-8")
    assert checkout.listed("format")["exam"] == "An examination's task and its solution."
    words = ("method=sft", f"data.path={rows}", *TINY)
    checked_and_planned(checkout, *words)
    assert "exam" in checkout.ftcli("data", "check", *words, "--rows-only")
    checkout.python("-m", "pytest", "-q", ROUND_TRIPS)
    assert checkout.touched() == [FORMATS, ROUND_TRIPS]


MODEL = """# The built-in model, its weights drawn anew
name_or_path: builtin:tiny
revision: null
init: random
attn_implementation: auto
dtype: auto
trust_remote_code: false
shape: null
"""
DATASET = "# The first rows of the built-in instructions.\npath: builtin:instructions\nmax_rows: 16\n"
RECIPE = """# A first look at preferences.   ftcli train recipe=first-look
# Rows: preference pairs
# Card: cpu, 0.1 GiB (estimate)
ftcli: 1
defaults:
  - method: dpo
  - model: tiny
  - data: tiny
  - peft: lora
train:
  max_steps: 2
"""


@pytest.mark.parametrize(
    ("kind", "path", "text", "words"),
    [
        ("model", "configs/model/narrow.yaml", MODEL, ("method=pretrain", "model=narrow")),
        ("data", "configs/data/few.yaml", DATASET, ("method=sft", "data=few")),
        ("recipe", "recipes/first-look.yaml", RECIPE, ("recipe=first-look",)),
    ],
)
def test_a_model_a_dataset_and_a_recipe_are_one_file(
    kind: str, path: str, text: str, words: tuple[str, ...], checkout: Checkout
) -> None:
    checkout.write(path, text)
    assert Path(path).stem in checkout.listed(kind)
    checked_and_planned(checkout, *words, "hardware=cpu", "hardware.num_threads=1")
    assert checkout.touched() == [path]


COMMAND = '''"""`ftcli shelf`: where the shipped recipes are."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.cli import arguments
from ftcli.core import assets
from ftcli.core.exit_codes import EXIT_DONE

SUMMARY = "where the shipped recipes are"
ORDER = 145


def run(argv: Sequence[str]) -> int:
    """Print the folder."""
    arguments.parse(arguments.parser("shelf", __doc__ or ""), argv)
    print(assets.RECIPES)
    return EXIT_DONE
'''


def test_a_command_is_one_module(checkout: Checkout) -> None:
    checkout.write("ftcli/cli/shelf.py", COMMAND)
    assert checkout.ftcli("shelf").strip() == str(checkout.root / "recipes")
    lines = [line.split() for line in checkout.ftcli("--help").splitlines()]
    names = [words[0] for words in lines if words]
    assert names.index("recipe") < names.index("shelf") < names.index("report")
    assert "shelf" in checkout.ftcli("completion", "words", "ftcli sh").split()
    assert checkout.touched() == ["ftcli/cli/shelf.py"]


def test_an_action_of_recipe_is_one_file(checkout: Checkout) -> None:
    action = COMMAND.replace("`ftcli shelf`", "`ftcli recipe shelf`").replace('parser("shelf"', 'parser("recipe shelf"')
    checkout.write("ftcli/cli/recipe_actions/shelf.py", action)
    assert checkout.ftcli("recipe", "shelf").strip() == str(checkout.root / "recipes")
    assert "shelf" in checkout.ftcli("recipe", "--help")
    assert "shelf" in checkout.ftcli("completion", "words", "ftcli recipe sh").split()
    assert checkout.touched() == ["ftcli/cli/recipe_actions/shelf.py"]


# --- the count --------------------------------------------------------------------------------------------------------


def test_a_further_file_is_counted_whether_new_changed_or_gone(checkout: Checkout) -> None:
    checkout.write("recipes/planted.yaml", RECIPE)
    assert checkout.touched() == ["recipes/planted.yaml"]
    checkout.insert("README.md", "\n", " planted")
    checkout.write("ftcli/core/planted.py", "")
    (checkout.root / "ftcli/py.typed").unlink()
    assert checkout.touched() == ["README.md", "ftcli/core/planted.py", "ftcli/py.typed", "recipes/planted.yaml"]
    git(checkout.root, "checkout", "--", ".")
    git(checkout.root, "clean", "--force", "-d", "--quiet")


def test_the_copy_runs_its_own_code(checkout: Checkout) -> None:
    found = checkout.python("-c", "import ftcli; print(ftcli.__file__)").strip()
    assert found == str(checkout.root / "ftcli" / "__init__.py")
