"""A data set on the hub is the files of one configuration and split, whole or refused with the remedy.

A real server on loopback stands in for the hub, reached as users reach mirrors: through HF_ENDPOINT.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ftcli.core.errors import ConfigError
from ftcli.data.files.dataset_card import BadCard, pick
from ftcli.data.files.locate import SourcePath, locate
from ftcli.data.files.reader import read_rows
from ftcli.data.files.split_names import NoSplit
from tests.conftest import REPOSITORY
from tests.loopback import serving

SET = "org/name"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROW = b'{"text": "x"}\n'
CARD = b"""---
license: mit
configs:
- config_name: en
  default: true
  data_files:
  - split: train
    path: en/part-*.jsonl
  - split: test
    path: en/held.jsonl
- config_name: de
  data_files: de/*.jsonl
---
# A set
"""
FILES = {
    "README.md": CARD,
    "en/part-1.jsonl": ROW,
    "en/part-2.jsonl": ROW * 2,
    "en/held.jsonl": ROW,
    "de/all.jsonl": ROW,
    "other.bin": b"never fetched",
}


# --- which files, by the README or by name --------------------------------------------------------------------------


def picked(here: Path, card: str, names: list[str], subset: str | None = None, split: str | None = None) -> list[str]:
    (here / "README.md").write_text(f"---\n{card}\n---\n", encoding="utf-8")
    return pick(here / "README.md", names, subset, split)


@pytest.mark.parametrize(
    ("data_files", "split", "found"),
    [
        ("a/*.jsonl", None, ["a/1.jsonl", "a/2.jsonl"]),
        ("'**/*.jsonl'", None, ["a/1.jsonl", "a/2.jsonl", "a/b/3.jsonl", "t.jsonl"]),
        ("[a/1.jsonl, a/b/*]", None, ["a/1.jsonl", "a/b/3.jsonl"]),
        (
            "[{split: train, path: [a/1.jsonl, 'a/[2-9].jsonl']}, {split: dev, path: t.jsonl}]",
            None,
            ["a/1.jsonl", "a/2.jsonl"],
        ),
        ("[{split: train, path: a/1.jsonl}, {split: dev, path: t.jsonl}]", "validation", ["t.jsonl"]),
        ("{train: 'a/?.jsonl', test: t.jsonl}", "test", ["t.jsonl"]),
        ("[{split: only, path: t.jsonl}]", None, ["t.jsonl"]),
    ],
)
def test_data_files_are_read_in_all_the_ways_they_are_written(here, data_files, split, found):
    names = ["README.md", "a/1.jsonl", "a/2.jsonl", "a/b/3.jsonl", "t.jsonl"]
    assert (
        picked(here, f"configs:\n- config_name: c\n  data_files: {data_files}\nlicense: mit", names, None, split)
        == found
    )


def test_a_configuration_without_files_is_its_folder_by_name(here):
    card = "configs:\n- config_name: en\n  data_dir: data/en\n- config_name: de\n  data_dir: ./data/de\n"
    names = [
        f"data/{language}/{split}-00000-of-00001.parquet" for language in ("en", "de") for split in ("train", "test")
    ]
    assert picked(here, card, names, "de") == ["data/de/train-00000-of-00001.parquet"]
    with pytest.raises(NoSplit, match="2 subsets and none of them is the default") as caught:
        picked(here, card, names)
    assert caught.value.there == ["de", "en"]


def test_names_decide_where_the_readme_says_nothing(here):
    names = ["README.md", "data/train_sft-00000-of-00001.parquet", "data/test_sft-00000-of-00001.parquet", "x/a.csv"]
    assert picked(here, "license: mit", names, None, "train_sft") == [names[1]]
    assert pick(None, names, "x", None) == ["x/a.csv"]
    with pytest.raises(NoSplit, match="no split train"):
        pick(None, names, None, None)
    with pytest.raises(NoSplit, match="no file of a supported type"):
        pick(None, ["model.bin"], None, None)


@pytest.mark.parametrize(
    ("configs", "error"),
    [
        ("configs: [", "not readable YAML"),
        ("configs: 7", "not a list of"),
        ("configs:\n- config_name: c\n  data_files: 7", "are not paths"),
        ("configs:\n- config_name: c\n  data_files: ../secret.jsonl", "not a file of the set"),
        ("configs:\n- config_name: c\n  data_files: https://elsewhere/a.jsonl", "not a file of the set"),
        ("configs: " + "[" * 1_000, "not readable YAML"),
        ("configs:\n" + "- x\n" * 200_000, "longer than 512 KiB"),
        ("configs:\n- config_name: c\n  data_files: [" + "a.jsonl, " * 10_000 + "a.jsonl]", "more than 10000 files"),
        ("configs:\n- config_name: c\n  data_files: gone.jsonl", "no file gone.jsonl, which its README.md lists"),
        ("configs:\n- config_name: c\n  data_files: a.py", "rows in a.py, which is not a supported file type"),
    ],
)
def test_a_strangers_readme_is_followed_only_so_far(here, configs, error):
    with pytest.raises((BadCard, NoSplit), match=error):
        picked(here, configs, ["a.jsonl", "a.py"])


# --- the cache ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(here, monkeypatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return here / "cache" / "datasets--org--name"


def put(cache: Path, files: dict[str, bytes], commit: str = COMMIT) -> None:
    for name, content in files.items():
        path = cache / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / "main").write_text(commit, encoding="utf-8")


def found(fetch: bool = False, path: str = SET, **parts: str) -> list[str] | None:
    files = locate(SourcePath(path=path, **parts), "data.path", fetch=fetch)
    return None if files is None else [file.name for file in files]


def refused(fetch: bool = True, **parts: str) -> str:
    with pytest.raises(ConfigError) as caught:
        locate(SourcePath(path=SET, **parts), "data.path", fetch=fetch)
    return str(caught.value)


def test_a_cached_set_is_found_without_the_hub(cache):
    put(cache, FILES)
    assert found() == found(fetch=True) == ["org/name/en/part-1.jsonl", "org/name/en/part-2.jsonl"]
    assert found(path="hub:org/name", revision="main", split="test") == ["org/name/en/held.jsonl"]
    assert found(revision=COMMIT, subset="de") == ["org/name/de/all.jsonl"]
    [file] = locate(SourcePath(path=SET, subset="de"), "", fetch=False) or ()
    assert [row.where for row in read_rows(file)] == ["org/name/de/all.jsonl:1"]
    assert "choose from de, en" in refused(subset="fr")
    assert "choose from test, train" in refused(split="dev")


def test_a_set_that_is_not_cached_is_unknown_or_refused(cache):
    assert found() is None
    assert "org/name is not in the local cache, and HF_HUB_OFFLINE forbids the network" in refused()
    assert "hf download --repo-type dataset org/name --revision v2" in refused(revision="v2")
    put(cache, FILES)
    assert found(revision="v2") is None
    assert found(revision="../refs/main") is None


def test_a_download_that_was_broken_off_is_not_taken_for_the_set(cache):
    shards = {f"data/train-{i:05}-of-00003.jsonl": ROW for i in range(3)}
    put(cache, dict(list(shards.items())[:2]))
    assert found() is None
    assert "is only partly in the local cache" in refused()
    put(cache, shards)
    assert found() == [f"org/name/{name}" for name in shards]


def test_the_listing_of_the_hub_tells_a_partial_set_where_names_do_not(cache):
    put(cache, {"a.jsonl": ROW})
    assert found() == ["org/name/a.jsonl"]
    (cache / "trees").mkdir()
    listing = {"format_version": 1, "files": {name: {"size": 1, "blob_id": ""} for name in ("a.jsonl", "b.jsonl")}}
    (cache / "trees" / f"{COMMIT}.json").write_text(json.dumps(listing), encoding="utf-8")
    assert found() is None
    assert "is only partly in the local cache" in refused()


# --- the hub --------------------------------------------------------------------------------------------------------


class _Hub(BaseHTTPRequestHandler):
    """Answers for one data set with the server's `files`, or every request with its `answer`."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if self.server.answer:
            return self.send(*self.server.answer)
        if path.startswith(f"/datasets/{SET}/resolve/"):
            content = self.server.files[path.split("/", 6)[6]]
            tags = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            return self.send(200, tags, content)
        if path.endswith("auth-check"):
            return self.send(200, {}, {})
        if "/tree/" in path:
            entries = [{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in self.server.files.items()]
            return self.send(200, {}, entries)
        siblings = [{"rfilename": name} for name in self.server.files]
        return self.send(200, {}, {"id": SET, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})

    do_HEAD = do_GET

    def send(self, status: int, headers: dict[str, str], body: object) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    with serving(_Hub, requests=[], files=FILES, answer=None) as server:
        yield server


_ASK = """
import json, sys
from ftcli.data.files.locate import SourcePath, locate
from ftcli.core.errors import ConfigError
answers = []
for parts, fetch in json.loads(sys.argv[1]):
    try:
        files = locate(SourcePath(**parts), "data.path", fetch=fetch)
        answers.append(files and [[file.name, open(file.path, "rb").read().decode()] for file in files])
    except ConfigError as error:
        answers.append(str(error))
print(json.dumps([answers, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate"}


def asked(here: Path, server: ThreadingHTTPServer, *questions: tuple[dict, bool], **values: str) -> list:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HOME": str(here / "hf"), "no_proxy": "127.0.0.1"}
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    environment |= {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **values}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", _ASK, json.dumps(questions)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=here)
    assert done.returncode == 0, done.stderr
    answers, modules = json.loads(done.stdout.splitlines()[-1])
    assert not HEAVY & set(modules)
    return answers


def test_only_what_is_wanted_is_downloaded_and_then_found_without_the_hub(here, hub):
    wanted = [["org/name/en/part-1.jsonl", ROW.decode()], ["org/name/en/part-2.jsonl", ROW.decode() * 2]]
    source = {"path": SET}
    assert asked(here, hub, (source, False), (source, True), (source, False)) == [None, wanted, wanted]
    fetched = {path.rpartition("/")[2] for path in hub.requests if "/resolve/" in path}
    assert fetched == {"README.md", "part-1.jsonl", "part-2.jsonl"}
    hub.requests.clear()
    assert asked(here, hub, (source, True)) == [wanted]
    assert asked(here, hub, (source, True), HF_HUB_OFFLINE="1") == [wanted]
    assert hub.requests == []
    # Another subset is not here yet, and known to be none of what is.
    other = {"path": SET, "subset": "de", "revision": "main"}
    assert asked(here, hub, (other, False), (other, True)) == [None, [["org/name/de/all.jsonl", ROW.decode()]]]


GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to dataset is restricted"}
UNKNOWN = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository Not Found"}
REVISION = {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}


@pytest.mark.parametrize(
    ("status", "headers", "what", "remedy"),
    [
        (403, GATED, "is gated and this account has no access", "accept the terms"),
        (404, UNKNOWN, "the hub has no data set org/name", "check the spelling"),
        (404, REVISION, "has no revision v9", "name a branch, tag or commit"),
        (400, {}, "the hub cannot be reached", "hf download --repo-type dataset org/name --revision v9"),
        (200, {}, "the hub cannot be reached", "use a local file or folder"),
    ],
)
def test_each_answer_of_the_hub_has_its_own_remedy(here, hub, status, headers, what, remedy):
    hub.answer = (status, headers, ["a captive portal"] if status == 200 else {"error": "no"})
    [message] = asked(here, hub, ({"path": SET, "revision": "v9"}, True))
    assert message.startswith("data.path  there is no file or folder org/name here; as a hub data set: ")
    assert what in message
    assert remedy in message
    assert hub.requests


def test_a_set_lacks_what_is_asked_of_it(here, hub):
    answers = asked(here, hub, ({"path": SET, "subset": "fr"}, True), ({"path": SET, "split": "dev"}, True))
    assert "org/name has no subset fr" in answers[0]
    assert "choose from de, en" in answers[0]
    assert "org/name has no split dev" in answers[1]
    assert "choose from test, train" in answers[1]


def test_a_hub_that_went_away_is_answered_from_the_cache(here, hub):
    put(here / "hf" / "hub" / "datasets--org--name", FILES)
    hub.answer = (400, {}, {"error": "no"})
    [files] = asked(here, hub, ({"path": SET}, True))
    assert [name for name, _ in files] == ["org/name/en/part-1.jsonl", "org/name/en/part-2.jsonl"]
