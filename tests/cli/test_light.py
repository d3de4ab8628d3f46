"""The front half answers without the heavy libraries: what each command loaded is read from its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "pyarrow", "numpy", "pandas"}

# Runs the program as `python -m ftcli` does, and tells at its end what it has loaded.
_WRAPPER = """
import json, sys
from ftcli.cli import main
code = main(sys.argv[2:])
top = sorted({name.partition(".")[0] for name in sys.modules})
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump([code, top], file)
"""


def loaded(here: Path, *words: str) -> tuple[int, set[str]]:
    """The exit code of a command, and the top-level modules that it had loaded in the end."""
    told = here / "loaded.json"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(
        [sys.executable, "-c", _WRAPPER, str(told), *words], env=environment, capture_output=True, check=True
    )
    code, modules = json.loads(told.read_text(encoding="utf-8"))
    return code, set(modules)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["list"], 0),
        (["show", "method=dpo", "peft=lora", "model=llama"], 0),
        (["show", "train"], 0),
        (["check", "recipe=demo"], 0),
        (["plan", "recipe=demo"], 0),
        (["plan", "model=llama", "method=dpo", "peft=lora"], 0),
        (["train", "--dry-run", "method=pretrain"], 0),
        (["train", "method=dppo"], 2),
        (["train", "peft=lora", "peft.r=sixteen", "train.optim=adamw_torhc", "data.path=gone.json"], 2),
        (["train", "model=llama"], 2),
        (["train", "--resume", "nothing"], 2),
        (["data", "check", "data.path=builtin:tiny"], 0),
        (["advise", "data.path=builtin:tiny", "model=tiny"], 0),
        (["doctor"], 0),
        (["report", "nothing"], 2),
        (["verify", str(REPOSITORY / "tests" / "fixtures" / "v0_1" / "runs" / "rlaif")], 0),
        (["generate", "someone/unheard-of", "hi"], 2),
        (["completion", "words", "ftcli train method.pa"], 0),
    ],
)
def test_no_command_of_the_front_half_loads_a_heavy_library(here, words, code):
    found, modules = loaded(here, *words)
    assert found == code
    assert modules & HEAVY == set()


@pytest.mark.parametrize("words", [["--help"], ["list"], ["--version"], ["recipe", "--help"]])
def test_help_and_lists_compose_nothing(here, words):
    _, modules = loaded(here, *words)
    assert modules & {"hydra", "omegaconf", "antlr4", "jinja2", "tokenizers", "rich", "psutil", "pynvml"} == set()


def test_a_model_that_is_not_there_is_told_without_the_hubs_library_when_offline(here):
    _, modules = loaded(here, "train", "model=llama")
    assert "huggingface_hub" not in modules
