"""What a plugin's functions give or raise is the plugin's fault, told with file and line, whatever the function."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from ftcli.core.plugins.plugin_results import functions_of
from ftcli.data.formats.columns import Format
from ftcli.launch.profile import Profile
from ftcli.methods.method import Method
from ftcli.methods.pipeline import Pipeline
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.tracker_declaration import Tracker
from tests.conftest import REPOSITORY
from tests.contribution.acme import FILES, planted

TINY = ("model=tiny", "hardware.num_threads=1", "train.max_steps=2", "train.eval_strategy=no", "run.score_rows=0")
GRPO = ("method=grpo", "method.rewards={brief: {most: 4}}", "method.max_completion_length=8", "data.max_rows=8")
CPU = ("hardware=cpu", *TINY)
DECLARATIONS = (Method, Pipeline, PeftMethod, Profile, Format, Tracker)


def called_in(declaration: type) -> list[str]:
    """The fields of a declaration that hold functions, by what their types say."""
    hints = get_type_hints(declaration)
    return [field.name for field in fields(declaration) if "Callable[" in str(hints[field.name])]


def ftcli(folder: Path, *words: str, code: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ftcli", *words], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert "bug in ftcli" not in done.stderr
    return done.stderr


# Every function of every kind, in one process: `odd` raises what it is told to, or gives what fits nothing.
ODD = '''

class Nothing:
    """Fits no type."""


def odd(*_, **__):
    import acme_how
    if acme_how.RAISES is not None:
        raise acme_how.RAISES("it broke")
    return Nothing()

'''
CALLS = """
import json, sys
from ftcli.core.errors import ConfigError
from ftcli.core.plugins import plugin_loading
plugin_loading.activate([sys.argv[1]])
import acme_how
import ftcli.peft_methods  # which takes plugins in while it is imported, as the others do when they are asked
from ftcli.core.declarations import declaration
found = []
for kind, module, attribute, field in json.loads(sys.argv[2]):
    declared = declaration(plugin_loading.KINDS[kind], module, attribute)
    declared = declared[0] if isinstance(declared, tuple) else declared
    function = declared if field is None else getattr(declared, field)
    for acme_how.RAISES in (None, RuntimeError, KeyError, SystemExit):
        try:
            function()
        except ConfigError as error:
            problem = error.problems[0]
        except BaseException as error:
            problem = plugin_loading.blame(error)
        else:
            problem = None
        found.append([kind, field, problem and problem.where, problem and problem.what])
print(json.dumps(found))
"""


def with_odd(text: str, bound: str, before: str, *names: str) -> str:
    """A plugin's module with `odd` under these names of its declaration."""
    given = ", ".join(f"{name}=odd" for name in names)
    return text.replace(f"\n{bound}", f"{ODD}\n{bound}").replace(before, f"{given}, {before}")


def test_every_function_of_every_kind_is_the_plugins(tmp_path: Path):
    profile = FILES["profiles/bench.py"].replace("plan=plan", "plan=odd")
    form = FILES["formats/exam.py"].replace("to_canonical=convert", "to_canonical=odd")
    chain = "from ftcli.methods.rlhf import PIPELINE as RLHF\nfrom dataclasses import replace\n" + ODD
    modules = {
        "methods__steady": with_odd(FILES["methods/steady.py"], "METHOD =", "paper=", *called_in(Method)),
        "methods__chain": chain + 'PIPELINE = replace(RLHF, name="chain", arrange=odd)\n',
        "peft_methods__fourier": with_odd(
            FILES["peft_methods/fourier.py"], "METHODS =", "paper=", *called_in(PeftMethod)
        ),
        "profiles__bench": profile.replace("\nPROFILE =", f"{ODD}\nPROFILE ="),
        "formats__exam": form.replace("\nFORMAT =", f"{ODD}\nFORMAT ="),
        "rewards__brief": ODD + "REWARD = odd\n",
        "acme_how": "RAISES = None\n",
    }
    folder = planted(tmp_path / "acme", **modules)
    asked = [
        *(["methods", "steady", "METHOD", name] for name in called_in(Method)),
        *(["methods", "chain", "PIPELINE", name] for name in called_in(Pipeline)),
        *(["peft_methods", "fourier", "METHODS", name] for name in called_in(PeftMethod)),
        *(["profiles", "bench", "PROFILE", name] for name in called_in(Profile)),
        *(["formats", "exam", "FORMAT", name] for name in called_in(Format)),
        ["rewards", "brief", "REWARD", None],
    ]
    assert len(asked) >= 18
    assert not called_in(Tracker)  # its writer is caught where it writes
    done = subprocess.run(
        [sys.executable, "-c", CALLS, str(folder), json.dumps(asked)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 4 * len(asked)
    for kind, module, _, _ in asked:
        text = (folder / kind / f"{module}.py").read_text("utf-8").splitlines()
        begins, raises = (
            text.index("def odd(*_, **__):") + 1,
            text.index('        raise acme_how.RAISES("it broke")') + 1,
        )
        for own, field, where, what in found:
            if own != kind or (kind == "methods" and (field == "arrange") is not (module == "chain")):
                continue
            gives = " gives " in str(what)
            assert where == f"{folder}/{kind}/{module}.py:{begins if gives else raises}", (field, what)
            assert what.startswith("the plugin acme failed: ")
            assert ", which is no " in what if gives else "it broke" in what


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda each: each.__name__)
def test_what_a_function_is_to_give_is_known_for_each(declaration):
    from ftcli.data.formats.registry import FORMATS
    from ftcli.launch.profiles.cpu import PROFILE
    from ftcli.methods import all_methods, all_pipelines
    from ftcli.peft_methods import PEFT_METHODS

    ours = [*FORMATS.values(), PROFILE, *all_methods().values(), *all_pipelines().values(), *PEFT_METHODS.values()]
    own = [each for each in ours if type(each) is declaration]
    known = {field for each in own for field, _, _ in functions_of(each)}
    assert known == set(called_in(declaration))


def changed(file: str, before: str, after: str) -> dict[str, str]:
    assert before in FILES[file]
    return {file.removesuffix(".py").replace("/", "__"): FILES[file].replace(before, after)}


ROWS = ("data.path=exam.jsonl", *CPU)
FAULTS: dict[str, tuple[dict[str, str], tuple[str, ...], str, str]] = {
    "no reward": (
        changed("rewards/brief.py", "return float(answered.num_tokens <= most)", "pass"), (*GRPO, *CPU),
        "rewards/brief.py:4", "brief gives None, which is no number from 0 to 1",
    ),
    "a reward that ends the process": (
        changed("rewards/brief.py", "    return", "    raise SystemExit(0)\n    return"), (*GRPO, *CPU),
        "rewards/brief.py:6", "SystemExit: 0",
    ),
    "a converter that ends the process": (
        changed("formats/exam.py", "    turn =", "    raise SystemExit('no')\n    turn ="), ROWS,
        "formats/exam.py:8", "SystemExit: no",
    ),
    "an import that ends the process": (
        changed("formats/exam.py", "\n\nFORMAT", "\n\nraise SystemExit(0)\nFORMAT"), ROWS,
        "formats/exam.py:12", "SystemExit: 0",
    ),
    "no row": (
        changed("formats/exam.py", "    return {", "    return\n    return {"), ROWS,
        "formats/exam.py:6", "to_canonical gives None, which is no dict",
    ),
    "half a row": (
        changed("formats/exam.py", "    return {", "    return {'prompt': 'a'}\n    return {"), ROWS,
        "formats/exam.py:6", "the format exam makes no row of the kind pair: it has no completion",
    ),
    "a row of numbers": (
        changed("formats/exam.py", "    return {", "    return {'prompt': 'a', 'completion': 1}\n    return {"), ROWS,
        "formats/exam.py:6", "its completion is a number, and not text or turns",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_function_that_fails_in_a_run_is_named_with_its_plugin_and_line(name, tmp_path: Path):
    changes, words, where, what = FAULTS[name]
    planted(tmp_path / "acme", **changes)
    lines = [json.dumps({"task_text": f"{n} + 2?", "solution_text": str(n + 2)}) for n in range(16)]
    (tmp_path / "exam.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = "train" if "rewards" in where else "plan"
    told = ftcli(tmp_path, command, "--plugins", "acme", *words, "run.dir=r", code=2)
    assert f"acme/{where}" in told
    assert what in told
    assert "\n  fix: " in told


def test_functions_that_a_declaration_has_of_ftcli_stay_as_they_are(tmp_path: Path):
    planted(tmp_path / "acme")
    script = (
        "import sys\nfrom ftcli.core.plugins import plugin_loading\nplugin_loading.activate(sys.argv[1:])\n"
        "from ftcli.methods import get_method\nfrom ftcli.rewards.rules import REWARDS\n"
        "print(get_method('steady').warns is get_method('sft').warns, hasattr(REWARDS['brief'], 'held'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "acme")], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.stdout == "True True\n", done.stderr
