"""Types of backend: a file each, found by listing the folder, and everything that is asked of a type follows it."""

from __future__ import annotations

import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftcli.core import assets
from ftcli.core.declarations import names_in
from ftcli.core.errors import ConfigError
from ftcli.core.strict_yaml import load
from ftcli.settings.backends import BACKENDS, ENDPOINTS, OWN_WEIGHTS, ROLES, WITHOUT_MODEL, BackendSettings
from ftcli.settings.library_fields import fields_of, options
from ftcli.synthesis.backend import require_backend
from tests.conftest import REPOSITORY

KIND = options(fields_of("ftcli.settings.backends:BackendSettings")["type"])


def test_folder_field_and_group_files_name_the_same_types():
    assert tuple(BACKENDS) == names_in("ftcli.settings.backends") == KIND == ("local", "openai", "rules", "vllm")
    assert [backend.name for backend in BACKENDS.values()] == [*BACKENDS]
    for role in ROLES:
        assert all(load(path).data["type"] == name for name, path in assets.choices(role).items())
    assert set(assets.choices("judge")) == set(BACKENDS)
    assert set(assets.choices("generator")) == set(BACKENDS) - {*WITHOUT_MODEL}


def test_a_type_loads_weights_or_asks_an_address_or_no_model_at_all():
    assert (OWN_WEIGHTS, ENDPOINTS, WITHOUT_MODEL) == (("local", "vllm"), ("openai",), ("rules",))


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=lambda backend: backend.name)
def test_what_answers_is_there_and_is_a_backend(backend):
    answerer = pkgutil.resolve_name(backend.answered_by)
    assert callable(answerer.replies)
    assert callable(answerer.about)


@pytest.mark.parametrize(
    ("kind", "what", "fix"),
    [
        ("vllm", "vLLM is not installed", "pip install vllm, or leave it out: transformers answers then"),
        ("openai", "judge=openai needs the package openai, which is not installed", "pip install openai"),
    ],
)
def test_a_package_that_is_missing_is_told_with_its_remedy(kind, what, fix, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        require_backend(BackendSettings(type=kind), "judge")
    (problem,) = caught.value.problems
    assert (problem.where, problem.what, problem.fix) == (f"judge={kind}", what, fix)


def test_an_endpoint_needs_the_variable_of_its_key(monkeypatch):
    pytest.importorskip("openai")
    settings = BackendSettings(type="openai", model="m", api_key_env="NO_SUCH_KEY")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="variable NO_SUCH_KEY with the API key is not set"):
        require_backend(settings, "judge")
    monkeypatch.setenv("NO_SUCH_KEY", "k")
    require_backend(settings, "judge")


NEW = """
from ftcli.settings.backend_declaration import BackendType
BACKEND = BackendType(
    name="letters", summary="By letter.", answered_by="ftcli.synthesis.regex_backend:Rules", endpoint=True
)
"""
RECIPE = """# A judge of a new type.   ftcli train recipe=judged
ftcli: 1
defaults: [{method: grpo}]
method:
  judge: {type: letters, model: m}
"""


def test_a_type_is_one_file_and_a_recipe_may_not_ask_an_endpoint_of_it(tmp_path):
    for name in ("ftcli", "configs", "recipes"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "ftcli" / "settings" / "backends" / "letters.py").write_text(NEW, "utf-8")
    (tmp_path / "judged.yaml").write_text(RECIPE, "utf-8")
    refused = python(tmp_path, "-m", "ftcli", "check", "recipe=./judged.yaml")
    assert refused.returncode == 2
    assert "grant it on the command line with --allow-endpoint" in refused.stderr
    granted = python(tmp_path, "-m", "ftcli", "check", "recipe=./judged.yaml", "--allow-endpoint")
    assert "method.judge" not in granted.stderr + granted.stdout
    made = python(
        tmp_path, "-c",
        "from ftcli.settings.backends import BackendSettings\n"
        "from ftcli.worker.inference.backends import backend_of\n"
        "print(type(backend_of(BackendSettings(type='letters', patterns=['a']), 'judge', {})).__name__)",
    )  # fmt: skip
    assert made.stdout == "Rules\n", made.stderr


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(folder), "PATH": "", "HOME": str(folder)}
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
