"""A recipe is fetched only as it was pinned: by its digest, or at a commit; and nothing of it runs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ftcli.cli import main
from ftcli.core.strict_yaml import load
from ftcli.recipes import recipe_lock
from tests.conftest import REPOSITORY
from tests.loopback import serving
from tests.recipes.test_recipe_lock import LOCK

RECIPE = b"# Theirs.   ftcli train recipe=theirs.yaml\nftcli: 1\nseed: 3\ntrain:\n  push_to_hub: true\n"
DIGEST = hashlib.sha256(RECIPE).hexdigest()
LOCKED = replace(LOCK, recipe={"name": "theirs.yaml", "sha256": DIGEST}).text().encode()


class Served(BaseHTTPRequestHandler):
    """Files by path."""

    server: Any

    def do_GET(self) -> None:
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def fetch(*words: str) -> int:
    return main(["recipe", "fetch", *words])


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_an_address_is_pinned_by_the_digest_of_its_bytes(here: Path, capsys) -> None:
    before = names(here)
    with serving(Served, files={"/theirs.yaml": RECIPE, "/page": RECIPE, "/long.yaml": b"#" * (2**20 + 1)}) as server:
        root = f"http://127.0.0.1:{server.server_port}"
        assert fetch(f"{root}/theirs.yaml") == 2
        unpinned = capsys.readouterr().err
        assert "is not pinned to its bytes, so nothing was written" in unpinned
        assert f"/theirs.yaml#sha256={DIGEST}" in unpinned
        assert fetch(f"{root}/theirs.yaml#sha256={'0' * 64}") == 2
        assert f"has sha256 {DIGEST}, and is pinned to {'0' * 64}" in capsys.readouterr().err
        for pin in ("sha256=", "sha256=xyz", "md5=abc", DIGEST):
            assert fetch(f"{root}/theirs.yaml#{pin}") == 2
            assert "is no digest" in capsys.readouterr().err
        assert fetch(f"{root}/none.yaml#sha256={DIGEST}") == 2
        assert "does not exist" in capsys.readouterr().err
        assert fetch(f"{root}/long.yaml#sha256={DIGEST}") == 2
        assert "which no recipe has" in capsys.readouterr().err
        assert fetch(f"{root}/page#sha256={DIGEST}") == 2
        assert "needs a file name" in capsys.readouterr().err
        assert names(here) == before
        assert fetch(f"{root}/theirs.yaml#sha256={DIGEST}") == 0
        told = capsys.readouterr().out
        assert "train.push_to_hub" in told
        assert "flags that it needs: --push-to-hub" in told
        assert "nothing of it has run" in told
        assert (here / "theirs.yaml").read_bytes() == RECIPE
        assert fetch(f"{root}/theirs.yaml#sha256={DIGEST}") == 2
        assert "is there already" in capsys.readouterr().err
        assert fetch(f"{root}/page#sha256={DIGEST}", "--to", "other.yaml", "--json") == 0
        assert json.loads(capsys.readouterr().out)["sha256"] == DIGEST
    assert main(["check", "recipe=theirs.yaml"]) == 2  # what it wants to send is granted by nobody
    assert "--push-to-hub" in capsys.readouterr().err


def test_what_is_no_plain_recipe_is_not_written(here: Path, capsys) -> None:
    before = names(here)
    for content, told in (
        (b"ftcli: 1\nx: !!python/object/apply:os.system ['touch PWNED']\n", "x.yaml:2"),
        (b"ftcli: 1\nmodel:\n  _target_: os.system\n", "can run code"),
        (b"a: 1\n", "lacks `ftcli: 1`"),
        (b"\xff\xfe", "x.yaml"),
    ):
        with serving(Served, files={"/x.yaml": content}) as server:
            pinned = f"http://127.0.0.1:{server.server_port}/x.yaml#sha256={hashlib.sha256(content).hexdigest()}"
            assert fetch(pinned) == 2
        error = capsys.readouterr().err
        assert told in error
        assert "ftcli-" not in error  # the folder that it was read in
    assert names(here) == before


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A repository with a recipe, its lock, a link, and hooks that would leave a mark; and its two commits."""
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "sub").mkdir()
    (folder / "sub/theirs.yaml").write_bytes(RECIPE)
    (folder / "sub/theirs.lock").write_bytes(LOCKED)
    (folder / "alone.yaml").write_bytes(RECIPE)
    (folder / "link.yaml").symlink_to("/etc/passwd")
    (folder / ".gitattributes").write_text("*.yaml filter=evil\n", encoding="utf-8")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    first = git(folder, "rev-parse", "HEAD")
    (folder / "sub/theirs.yaml").write_bytes(RECIPE.replace(b"seed: 3", b"seed: 4"))
    git(folder, "commit", "--quiet", "-am", "two")
    later = git(folder, "rev-parse", "HEAD")
    for hook in ("post-checkout", "post-merge", "reference-transaction", "pre-auto-gc"):
        file = folder / ".git/hooks" / hook
        file.write_text(f"#!/bin/sh\ntouch {folder}/PWNED\n", encoding="utf-8")
        file.chmod(0o755)
    return folder, first, later


def test_a_git_repository_is_pinned_to_a_commit(repository: tuple[Path, str, str], here: Path, capsys) -> None:
    folder, first, later = repository
    source = f"git+file://{folder}"
    before = names(here)
    for wrong, told in (
        (f"{source}@main:sub/theirs.yaml", "is not pinned to a commit"),
        (f"{source}@{first[:12]}:sub/theirs.yaml", "is not pinned to a commit"),
        (f"{source}@{first}", "is not pinned to a commit"),
        (f"{source}@{'0' * 40}:sub/theirs.yaml", "git cannot have it"),
        (f"{source}@{first}:none.yaml", "git cannot have it"),
        (f"{source}@{first}:sub", "git cannot have it"),
        (f"{source}@{first}:link.yaml", "is not a mapping"),
        (f"git+ext::sh -c touch% PWNED@{first}:x.yaml", "git cannot have it"),
        (f"git+--upload-pack=touch PWNED@{first}:x.yaml", "is no address of a repository"),
        ("theirs.yaml", "is no source of recipes"),
    ):
        assert fetch(wrong) == 2, wrong
        assert told in capsys.readouterr().err, wrong
        assert names(here) == before
    assert fetch(f"{source}@{first}:sub/theirs.yaml") == 0
    assert load(here / "theirs.yaml").data["seed"] == 3
    assert recipe_lock.read(here / "theirs.lock").recipe["sha256"] == DIGEST
    assert fetch(f"{source}@{first}:alone.yaml") == 0
    assert not (here / "alone.lock").exists()
    assert fetch(f"{source}@{later}:sub/theirs.yaml", "--to", "later.yaml") == 2  # its lock is of the earlier one
    assert "one of another recipe" in capsys.readouterr().err
    assert not [*folder.rglob("PWNED"), *here.rglob("PWNED"), *here.glob("later*")]


def test_a_hub_repository_is_pinned_to_a_commit(here: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    commit = "c" * 40
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    files = {
        f"/org/name/resolve/{commit}/sub/theirs.yaml": RECIPE,
        f"/org/name/resolve/{commit}/sub/theirs.lock": LOCKED,
        f"/datasets/org/rows/resolve/{commit}/alone.yaml": RECIPE,
    }
    with serving(Served, files=files) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert fetch("hub:org/name@main:sub/theirs.yaml") == 2
        assert "is not pinned to a commit" in capsys.readouterr().err
        assert fetch(f"hub:../x@{commit}:a.yaml") == 2
        assert "is no repository of the hub" in capsys.readouterr().err
        assert fetch(f"hub:org/name@{commit}:sub/theirs.yaml") == 0
        assert fetch(f"hub:datasets/org/rows@{commit}:alone.yaml") == 0
        assert (here / "theirs.yaml").read_bytes() == (here / "alone.yaml").read_bytes() == RECIPE
        assert recipe_lock.read(here / "theirs.lock").recipe["sha256"] == DIGEST
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert fetch(f"hub:org/name@{commit}:sub/theirs.yaml", "--to", "again.yaml") == 2
        assert "HF_HUB_OFFLINE forbids the network" in capsys.readouterr().err


def test_recipe_takes_a_file_and_says_how_to_get_one(here: Path, capsys) -> None:
    for source in (f"https://example.org/x.yaml#sha256={DIGEST}", "hub:org/name@main:x.yaml"):
        assert main(["check", f"recipe={source}"]) == 2
        assert "ftcli recipe fetch" in capsys.readouterr().err


def test_hostile_recipes_are_inert_when_they_are_fetched(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.fetched_recipes", "60", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["faults"] == []
    assert min(found["written"], found["refused"]) >= 5
