"""All that a recipe reaches lies in its folder or the hub cache, or was granted, by whatever way it is reached."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.core.hub_cache import cached_snapshot, is_revision
from ftcli.data.files.locate import SourcePath, locate
from ftcli.methods.method import MODEL_FIELDS
from ftcli.models.sources import model_source
from ftcli.settings.groups import MODEL_KEYS
from ftcli.synthesis import principles
from tests.config.test_recipes import HEAD, write

ROW = '{"text": "a"}\n'


@pytest.fixture
def place(here: Path) -> Path:
    """A folder with a recipe of somebody else in `shared/`, and beside it what is the user's own."""
    (here / "shared").mkdir()
    write(ROW, "private/rows/rows.jsonl")
    write("principles:\n  - {name: a, critique: b, revision: c, judge: d}\n", "private/constitution.yaml")
    shutil.copytree(tiny.MODEL_DIR, here / "private" / "model")
    return here


def adapter(folder: Path, base: str) -> None:
    folder.mkdir(parents=True)
    declared = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(declared), encoding="utf-8")


def linked_file(place: Path) -> None:
    write(ROW, "shared/rows/a.jsonl")
    (place / "shared" / "rows" / "b.jsonl").symlink_to(place / "private" / "rows" / "rows.jsonl")


def linked_folder(place: Path) -> None:
    write(ROW, "shared/rows/a.jsonl")
    (place / "shared" / "rows" / "more").symlink_to(place / "private" / "rows")


def linked_weights(place: Path) -> None:
    shutil.copytree(tiny.MODEL_DIR, place / "shared" / "model")
    (place / "shared" / "model" / "model.safetensors").unlink()
    (place / "shared" / "model" / "model.safetensors").symlink_to(place / "private" / "model" / "model.safetensors")


def nothing(place: Path) -> None:
    """The setting names it by itself."""


def stack(place: Path) -> None:
    adapter(place / "shared" / "top", str(place / "shared" / "middle"))
    adapter(place / "shared" / "middle", str(place / "private" / "model"))


def shadow(place: Path) -> None:
    shutil.copytree(tiny.MODEL_DIR, place / "lab" / "model")


def run_of_that_name(place: Path) -> None:
    (place / "runs" / "mine" / "1").mkdir(parents=True)
    (place / "runs" / "mine" / "1" / "spec.json").write_text("{}", encoding="utf-8")
    shutil.copytree(tiny.MODEL_DIR, place / "runs" / "mine" / "1" / "model")


PPO = "ftcli: 1\ndefaults:\n  - method: ppo\n"
REACHED: list[tuple[str, Callable[[Path], None], str]] = [
    ("data: {path: rows}", linked_file, HEAD),
    ("data: {path: rows}", linked_folder, HEAD),
    ("data: {path: 'rows/*.jsonl'}", linked_file, HEAD),
    ("data: {path: 'rows/**/*.jsonl'}", linked_folder, HEAD),
    ("data: {path: 'rows/*/rows.jsonl'}", linked_folder, HEAD),
    ("data: {path: ['rows/a.jsonl', 'rows/b.jsonl']}", linked_file, HEAD),
    ("data: {path: rows, subset: more}", linked_folder, HEAD),
    ("data: {mix: {a: {path: rows}}}", linked_folder, HEAD),
    ("data: {eval_path: rows}", linked_file, HEAD),
    ("model: {name_or_path: model}", linked_weights, HEAD),
    ("model: {name_or_path: top}", stack, HEAD),
    ("model: {name_or_path: lab/model}", shadow, HEAD),
    ("model: {name_or_path: mine}", run_of_that_name, HEAD),
    ("method: {value_model: ../private/model}", nothing, PPO),
    ("method: {value_model: lab/model}", shadow, PPO),
    ("method: {reward_model: lab/model}", shadow, PPO),
    ("method: {judge: {type: local, model: ../private/model}}", nothing, PPO),
    ("method: {judge: {type: local, model: lab/model}}", shadow, PPO),
    ("method: {judge: {type: local}, judge_constitution: ../private/constitution.yaml}", nothing, PPO),
    ("model: {chat_template: ../private/t.jinja}", nothing, HEAD),
]


@pytest.mark.parametrize(("setting", "prepare", "head"), REACHED, ids=[f"{s} {p.__name__}" for s, p, _ in REACHED])
def test_what_lies_elsewhere_needs_the_flag(setting, prepare, head, place: Path, problems):
    prepare(place)
    write(f"{head}{setting}\n", "shared/r.yaml")
    found = [each for each in problems("recipe=shared/r.yaml") if "--allow-path" in each]
    assert len(found) == 1, found
    assert found[0].startswith("shared/r.yaml:4  ")
    assert "outside the recipe's folder" in found[0]
    granted = problems("recipe=shared/r.yaml", grants=frozenset({"--allow-path"}))
    assert not any("--allow-path" in each for each in granted)


def test_a_reader_that_looks_at_names_alone_would_reach_them(place: Path):
    """The controls: the same names, taken as they are."""
    linked_folder(place)
    found = locate(SourcePath(path="shared/rows"), "x", fetch=False)
    assert found is not None
    assert any(each.path.endswith("more/rows.jsonl") for each in found)
    shadow(place)
    source = model_source("lab/model")
    assert source is not None
    assert source.folder == place / "lab" / "model"
    run_of_that_name(place)
    source = model_source("mine")
    assert source is not None
    assert source.folder is not None


@pytest.mark.parametrize(
    "setting",
    ["data: {path: rows}", "data: {path: 'rows/*.jsonl'}", "model: {name_or_path: model}", "model: {name_or_path: up}"],
)
def test_what_lies_beside_the_recipe_needs_none(setting, place: Path, problems, monkeypatch):
    write(ROW, "shared/rows/a.jsonl")
    (place / "shared" / "rows" / "b.jsonl").symlink_to(place / "shared" / "more.jsonl")
    write(ROW, "shared/more.jsonl")
    shutil.copytree(tiny.MODEL_DIR, place / "shared" / "model")
    adapter(place / "shared" / "up", str(place / "shared" / "model"))
    cache = place / "cache"
    (cache / "blobs").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    shutil.move(place / "shared" / "model" / "model.safetensors", cache / "blobs" / "w")
    (place / "shared" / "model" / "model.safetensors").symlink_to(cache / "blobs" / "w")
    write(f"{HEAD}{setting}\n", "shared/r.yaml")
    assert not any("outside" in each for each in problems("recipe=shared/r.yaml"))


@pytest.mark.parametrize("revision", ["../../x", "..", "/etc", "a/../b", "a//b", "~/x", "", "a\nb"])
def test_a_revision_is_no_path(revision, place: Path, problems):
    assert not is_revision(revision)
    assert cached_snapshot("a/b", revision) is None
    for key in ("model", "data"):
        write(f"{HEAD}{key}: {{revision: {json.dumps(revision)}}}\n", "shared/r.yaml")
        assert any("no branch, tag or commit" in each for each in problems("recipe=shared/r.yaml")), key
    write(f"{HEAD}data: {{mix: {{a: {{path: x/y, revision: {json.dumps(revision)}}}}}}}\n", "shared/r.yaml")
    assert any("no branch, tag or commit" in each for each in problems("recipe=shared/r.yaml"))


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/7", "refs/convert/parquet", "0a1b2c3", "feature_x-2"])
def test_branches_tags_and_commits_are_revisions(revision):
    assert is_revision(revision)


def test_every_setting_that_names_a_model_is_looked_at():
    assert {f"method.{key}" for key in MODEL_FIELDS} <= MODEL_KEYS


def test_a_built_in_set_of_principles_is_a_name(place: Path):
    with pytest.raises(Exception, match="constitution"):
        principles.named("builtin:../../../private/constitution")
