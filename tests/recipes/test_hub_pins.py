"""A lock pins what comes from the hub by its commit, and each file of it that is here by its digest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.build.inputs import run_inputs
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.recipes import locking
from tests.recipes.test_recipe_lock import LOCK, OUTCOME

COMMIT = "c" * 40


@pytest.fixture
def cached(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub model in the cache of this test."""
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "hub"))
    repository = here / "hub/models--org--little"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT, encoding="utf-8")
    shutil.copytree(tiny.MODEL_DIR, repository / "snapshots" / COMMIT)
    return repository / "snapshots" / COMMIT


def test_a_model_of_the_hub_is_pinned_by_commit_and_digests(cached: Path) -> None:
    from dataclasses import replace

    spec = spec_of(Request(overrides=("model.name_or_path=org/little",)))
    files = dict(locking.files_of(spec))
    assert files["model.name_or_path:org/little"] == f"org/little@{COMMIT}"
    assert files["model.name_or_path:org/little@model.safetensors"] == str(cached / "model.safetensors")
    entries = {name: locking.entry(path) for name, path in files.items()}
    lock = replace(LOCK, settings={"model.revision": COMMIT}, files=entries, outcome=OUTCOME, grants=())
    locking.require_locked(spec, lock)
    raw = bytearray((cached / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (cached / "model.safetensors").write_bytes(bytes(raw))
    with pytest.raises(ConfigError, match=r"model\.safetensors  differs from what is locked"):
        locking.require_locked(spec, lock)
    shutil.rmtree(cached.parent.parent)  # not here yet: its commit is pinned, and the hub gives nothing else
    rows = {name: path for name, path in run_inputs.files_of(spec) if name.startswith("data.")}
    assert dict(locking.files_of(spec)) == rows
    locking.require_locked(spec, lock)
    with pytest.raises(ConfigError, match="is locked, and is not here"):
        locking.require_locked(spec, replace(lock, settings={}))
