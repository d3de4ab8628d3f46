"""Types of backend: a file each, found by listing the folder, and everything that is asked of a type follows it."""

from __future__ import annotations

import dataclasses
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from ftcli.build.resolve import build
from ftcli.config.compose import Request, compose
from ftcli.core import assets
from ftcli.core.declarations import names_in
from ftcli.core.errors import ConfigError
from ftcli.core.strict_yaml import load
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.role_settings import unread_settings
from ftcli.pipelines.stage_specs import pipeline_spec
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


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=lambda backend: backend.name)
def test_a_type_declares_what_its_class_reads(backend):
    module = sys.modules[pkgutil.resolve_name(backend.answered_by).__module__]
    read = set(re.findall(r"\b_?(?:settings|s)\.([a-z_]+)", Path(module.__file__).read_text("utf-8")))
    if backend.endpoint:
        read.add("api_key_env")
    assert read & {each.name for each in dataclasses.fields(BackendSettings)} == set(backend.reads)


FIELDS = sorted({each.name for each in dataclasses.fields(BackendSettings)} - {"type"})
VALUES = {
    "model": "m", "revision": "v1", "base_url": "http://x/v1", "api_key_env": "K", "logprobs": False, "patterns": ["a"],
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("kind", BACKENDS)
def test_a_setting_that_the_type_does_not_read_is_refused_everywhere(kind, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = name in BACKENDS[kind].reads
    value = json.dumps(VALUES.get(name, 0.5 if name == "gpu_memory_utilization" else 3))
    grants = frozenset({"--allow-endpoint"})
    roles = [role for role in ROLES if kind in assets.choices(role)]
    for role in roles:
        expected = read and not (role == "generator" and name == "logprobs")
        typed = (f"{role}={kind}", f"{role}.{name}={value}")
        file = f"ftcli: 1\ndefaults: [{{method: rlaif}}, {{{role}: {kind}}}]\n{role}:\n  {name}: {value}\n"
        (tmp_path / "r.yaml").write_text(file, "utf-8")
        for words in (("method=rlaif", *typed), ("recipe=r.yaml",)):
            wanted = pipeline_request(Request(overrides=words, grants=grants))
            assert ([*unread_settings(wanted)] == []) is expected, (role, words)
    own = {"type": kind, "model": "builtin:tiny", name: json.loads(value)}
    if "model" not in BACKENDS[kind].reads and name != "model":
        del own["model"]
    method = f"defaults: [{{method: grpo}}]\nmethod: {{judge: {json.dumps(own)}}}\n"
    (tmp_path / "r.yaml").write_text(f"ftcli: 1\n{method}", "utf-8")
    with pytest.raises(ConfigError) if not read else nullcontext() as caught:
        build(compose(Request(overrides=("recipe=r.yaml",), grants=grants)))
    if not read:
        assert f"method.judge.{name} is not read by a backend of type {kind}" in str(caught.value)


def test_what_the_command_line_takes_the_ground_from_is_no_mistake(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    judge = "judge:\n  model: m\n  base_url: http://x/v1\n"
    (tmp_path / "r.yaml").write_text(f"ftcli: 1\ndefaults: [{{method: rlaif}}, {{judge: openai}}]\n{judge}", "utf-8")
    wanted = pipeline_request(Request(overrides=("recipe=r.yaml", "judge=rules", "judge.patterns=[a]")))
    assert [*unread_settings(wanted)] == []
    judges = [each.spec.backend for each in pipeline_spec(wanted).stages if each.name == "judge"]
    assert judges == [BackendSettings(type="rules", patterns=["a"])]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("method=rlhf judge.batch_size=4", "no stage of method=rlhf as it is set has a judge"),
        ("method=rlhf generator=openai", "no stage of method=rlhf as it is set has a generator"),
        ("method=rlaif stages.sft.judge.batch_size=4", "stage sft has no generator and no judge"),
        ("method=rlaif stages.judge.judge.patterns=[a]", "is not read by a backend of type local, only by rules"),
    ],
)
def test_a_setting_of_a_role_that_nobody_has_is_refused(words, told):
    with pytest.raises(ConfigError, match=told):
        pipeline_spec(pipeline_request(Request(overrides=tuple(words.split()))))


def test_a_setting_for_all_is_read_where_one_stage_reads_it():
    typed = ("method=online_dpo", "method.rounds=2", "stages.judge_2.judge=rules", "judge.batch_size=3")
    wanted = pipeline_request(Request(overrides=typed))
    assert [*unread_settings(wanted)] == []


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
    name="letters", summary="By letter.", answered_by="ftcli.synthesis.regex_backend:Rules", endpoint=True,
    reads=("model", "patterns"),
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
