"""What the user wrote leads to the files that were meant: neither more, nor silently fewer, and every refusal helps."""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ftcli.core.errors import ConfigError, DataError, Problem
from ftcli.data.files.locate import DataFile, SourcePath, fingerprint, is_hub, is_local, locate
from ftcli.data.files.reader import peek_rows, read_rows
from ftcli.data.files.split_names import missing_shards, split_of
from tests.loopback import serving

ROW = '{"text": "x"}\n'


def tree(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ROW, encoding="utf-8")


def names(path: str, **parts: str) -> list[str]:
    files = locate(SourcePath(path=path, **parts), "data.path", fetch=True)
    assert files is not None
    return [file.name for file in files]


def refusal(path: str, **parts: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        locate(SourcePath(path=path, **parts), "data.path", fetch=True)
    (problem,) = caught.value.problems
    assert problem.where == "data.path"
    assert problem.fix
    return problem


@pytest.mark.parametrize(
    ("path", "local", "hub"),
    [
        ("data.jsonl", True, False),
        ("data/train.jsonl.zst", True, False),
        ("/data/set", True, False),
        ("./org/name", True, False),
        ("~/org/name", True, False),
        ("org/name/more", True, False),
        ("data/*.jsonl", True, False),
        ("word", True, False),
        ("org/name", False, True),
        ("hub:word", False, True),
        ("hub:org/name.json", False, True),
        ("s3://bucket/a.jsonl", False, False),
        ("https://host/org/name", False, False),
        ("file:///a.jsonl", False, False),
    ],
)
def test_a_path_a_url_and_a_hub_name_are_told_apart(here, path, local, hub):
    assert (is_local(path), is_hub(path)) == (local, hub)


def test_what_is_here_is_no_hub_name(here):
    assert is_hub("org/name")
    (here / "org" / "name").mkdir(parents=True)
    assert not is_hub("org/name")
    assert is_local("org/name")


def test_a_file_is_found_as_typed_and_holds_wherever_the_run_goes(here):
    tree(here, "a.jsonl")
    assert locate(SourcePath(path="a.jsonl"), "", fetch=False) == (DataFile(str(here / "a.jsonl"), "a.jsonl"),)
    assert peek_rows(DataFile(str(here / "a.jsonl"), "a.jsonl"))[0].where == "a.jsonl:1"


def test_the_home_folder_is_expanded(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    tree(here, "set/a.jsonl")
    assert names("~/set") == [str(here / "set" / "a.jsonl")]
    assert names("~/set/*.jsonl") == [str(here / "set" / "a.jsonl")]


def test_a_folder_is_its_readable_files_in_order_without_what_is_no_data(here):
    data = ["b.jsonl", "a/z.csv", "a/10.parquet.gz", "c.ndjson.zst"]
    other = ["README.md", "README.txt", "LICENSE.txt", "dataset_info.json", "state.json", ".git/x.jsonl", ".a.jsonl"]
    tree(here, *(f"set/{name}" for name in [*data, *other, "picture.png", "cache-0123456789abcdef.arrow"]))
    assert names("set") == ["set/a/10.parquet.gz", "set/a/z.csv", "set/b.jsonl", "set/c.ndjson.zst"]


def test_a_folder_that_links_to_itself_is_walked_once(here):
    tree(here, "set/a.jsonl", "elsewhere/b.jsonl")
    (here / "set" / "loop").symlink_to(here / "set")
    (here / "set" / "more").symlink_to(here / "elsewhere")
    assert names("set") == ["set/a.jsonl", "set/more/b.jsonl"]
    assert names("set/**") == ["set/a.jsonl", "set/more/b.jsonl"]


def test_a_pattern_is_its_matches_in_order_and_a_literal_name_goes_before(here):
    tree(here, "b.jsonl", "a.jsonl", "sub/deep/c.jsonl", "notes.md", "dataset_info.json", "[a]*.jsonl")
    assert names("?.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names("**/*.json*") == ["[a]*.jsonl", "a.jsonl", "b.jsonl", "sub/deep/c.jsonl"]
    assert names("[a]*.jsonl") == ["[a]*.jsonl"]
    assert "matches no file" in refusal("*.parquet").what
    assert "notes.md" in refusal("*.md").fix
    assert refusal("su*").fix == "it matches folders: write su*/**"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("data/train-00000-of-00002.parquet", "train"),
        ("train_prefs-00000-of-00001.parquet", "train_prefs"),
        ("test_sft-00000-of-00001.parquet", "test_sft"),
        ("alpaca_train.json", "train"),
        ("my-set-dev.csv.gz", "validation"),
        ("val.jsonl", "validation"),
        ("valid-00000-of-00001.parquet", "validation"),
        ("eval.jsonl", "eval"),
        ("test/part1.jsonl", "test"),
        ("train/devices.jsonl", "train"),
        ("train/my_test_cases.jsonl", "train"),
        ("test/train.jsonl", "train"),
        ("training_2.jsonl", "train"),
        ("latest.jsonl", None),
        ("restrained.jsonl", None),
        ("train_test.jsonl", None),
        ("part-00000-of-00002.jsonl", None),
    ],
)
def test_a_split_is_told_by_words_that_stand_apart(name, split):
    assert split_of(name) == split


def test_a_folder_gives_its_training_rows_and_the_split_that_is_asked_for(here):
    tree(here, "set/train-1.jsonl", "set/train-2.jsonl", "set/dev.jsonl", "set/other.jsonl")
    assert names("set") == ["set/train-1.jsonl", "set/train-2.jsonl"]
    assert names("set", split="validation") == names("set", split="dev") == ["set/dev.jsonl"]
    problem = refusal("set", split="test")
    assert problem.what == "set has no split test"
    assert "set split to train or validation" in problem.fix


def test_held_out_files_are_never_taken_for_training_rows_in_silence(here):
    tree(here, "set/test.jsonl", "set/validation.jsonl", "mixed/alpaca.jsonl", "mixed/test.jsonl", "alone/test.jsonl")
    assert refusal("set").what == "set has test, validation, but no split train"
    assert "or all of them as mixed/**" in refusal("mixed").fix
    assert names("mixed/**") == ["mixed/alpaca.jsonl", "mixed/test.jsonl"]
    assert names("alone") == ["alone/test.jsonl"]


def test_a_sub_folder_is_a_subset(here):
    tree(here, "set/en/train.jsonl", "set/de/train.jsonl", "set/de/test.jsonl")
    assert names("set", subset="de") == ["set/de/train.jsonl"]
    assert names("set", subset="de", split="test") == ["set/de/test.jsonl"]
    assert refusal("set", subset="fr").fix == "choose from de, en"
    assert "no subfolder" in refusal("set/en", subset="../de").what


@pytest.mark.parametrize("key", ["subset", "split", "revision"])
@pytest.mark.parametrize("path", ["set/a.jsonl", "set/*.jsonl"])
def test_what_has_no_meaning_is_refused(here, path, key):
    tree(here, "set/a.jsonl")
    assert f"{key}=x does not apply to {path}" in refusal(path, **{key: "x"}).what


def test_one_file_twice_is_refused_as_its_rows_would_count_double(here):
    tree(here, "set/a.jsonl")
    (here / "set" / "a.jsonl.gz").write_bytes(gzip.compress(ROW.encode()))
    assert "are the same file, whose rows would count twice" in refusal("set").what
    assert names("set/*.gz") == ["set/a.jsonl.gz"]


def test_what_is_not_there_is_refused_with_the_nearest_names(here):
    tree(here, "alpaca.json", "set/a.md")
    (here / "gone.jsonl").symlink_to(here / "nowhere.jsonl")
    assert refusal("alpacca.json").fix == "did you mean alpaca.json?"
    assert "is a broken link" in refusal("gone.jsonl").what
    assert "set has no file of a supported type" in refusal("set").what
    assert "not a supported file type" in refusal("set/a.md").what
    problem = refusal("alpaca/jsn")
    assert problem.what.startswith("there is no file or folder alpaca/jsn here; as a hub data set: ")
    assert "as a path: the folder alpaca does not exist either" in problem.fix


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_listed_is_not_skipped(here):
    tree(here, "set/a.jsonl", "set/closed/b.jsonl")
    (here / "set" / "closed").chmod(0)
    assert "cannot be listed" in refusal("set").what


def test_a_shard_that_is_missing_is_known_by_the_numbers_of_the_others():
    there = ["d/train-00000-of-00003.parquet", "d/train-00002-of-00003.parquet", "test-00000-of-00001.parquet"]
    assert missing_shards(there) == ["d/train-00001-of-00003.parquet"]


def test_a_fingerprint_follows_the_content_of_a_file(here):
    tree(here, "a.jsonl", "b.jsonl")
    first, second = (DataFile(str(here / name), name) for name in ("a.jsonl", "b.jsonl"))
    # printf '{"text": "x"}\n' | sha256sum
    assert (
        fingerprint(first) == fingerprint(second) == "3d321bc5b361aa83fb8eaf842d9cde8f228a3e142d9b103276141268bb3a9f74"
    )
    (here / "b.jsonl").write_text(ROW + ROW, encoding="utf-8")
    assert fingerprint(first) != fingerprint(second)
    with pytest.raises(DataError, match="cannot be read"):
        fingerprint(DataFile(str(here / "gone.jsonl"), "gone.jsonl"))


# --- stores ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def store() -> Iterator[Callable[[str, bytes], None]]:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    yield memory.pipe_file
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_a_store_gives_files_folders_and_patterns(store):
    for name in ("train/b.jsonl", "train/a.jsonl", "train/.hidden.jsonl", "test/c.jsonl", "README.md"):
        store(f"/bucket/{name}", ROW.encode())
    assert locate(SourcePath(path="memory://bucket"), "", fetch=False) is None
    assert names("memory://bucket/train/a.jsonl") == ["memory://bucket/train/a.jsonl"]
    assert [name.rpartition("bucket/")[2] for name in names("memory://bucket")] == ["train/a.jsonl", "train/b.jsonl"]
    assert [name.rpartition("bucket/")[2] for name in names("memory://bucket", split="test")] == ["test/c.jsonl"]
    assert [name.rpartition("bucket/")[2] for name in names("memory://bucket", subset="test")] == ["test/c.jsonl"]
    assert len(names("memory://bucket/**/*.jsonl")) == 3
    assert "does not exist" in refusal("memory://bucket/gone.jsonl").what
    assert "does not exist" in refusal("memory://nothing").what
    files = locate(SourcePath(path="memory://bucket/*/c.jsonl"), "", fetch=True)
    assert files is not None
    assert [row.value for row in read_rows(files[0])] == [{"text": "x"}]


def test_parquet_in_a_store_is_read_where_it_lies(store):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    sink = pyarrow.BufferOutputStream()
    rows = [{"n": i, "text": f"row {i}"} for i in range(2000)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink, row_group_size=900)
    store("/bucket/a.parquet", sink.getvalue().to_pybytes())
    file = DataFile("memory://bucket/a.parquet", "memory://bucket/a.parquet")
    assert [row.value for row in read_rows(file)] == rows


def test_a_fingerprint_follows_a_file_in_a_store(store):
    file = DataFile("memory://bucket/a.jsonl", "memory://bucket/a.jsonl")
    store("/bucket/a.jsonl", b"one")
    first = fingerprint(file)
    assert fingerprint(file) == first
    store("/bucket/a.jsonl", b"more")
    assert fingerprint(file) != first


def test_a_store_whose_driver_is_missing_names_the_package():
    for url, package in (("s3://bucket/a.jsonl", "s3fs"), ("gs://b/a.jsonl", "gcsfs"), ("az://b/a.jsonl", "adlfs")):
        try:
            __import__(package)
        except ImportError:
            assert "needs a package that is not installed" in refusal(url).what
            assert refusal(url).fix == f"pip install {package}"
    assert "Protocol not known: s4" in refusal("s4://bucket/a.jsonl").what


def test_a_store_that_does_not_answer_is_unreachable_and_no_password_is_printed():
    pytest.importorskip("fsspec")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listening
        problem = refusal(f"ftp://me:secret@127.0.0.1:{probe.getsockname()[1]}/a.jsonl")
    assert "cannot be reached (ConnectionRefusedError" in problem.what
    assert "secret" not in str(problem)


def test_a_file_url_is_the_file(here):
    tree(here, "set/a.jsonl")
    assert names(f"file://{here}/set") == [f"{here}/set/a.jsonl"]


# --- the web --------------------------------------------------------------------------------------------------------


class _Web(BaseHTTPRequestHandler):
    """Serves the server's `files`; `cut` bytes into each answer it hangs up, `parts` says whether it sends ranges."""

    def do_GET(self) -> None:
        server = self.server
        server.asked.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        found = server.files.get(self.path.partition("?")[0])
        if found is None or isinstance(found, int):
            self.send_error(found or 404)
            return
        start = int(self.headers["Range"][6:-1]) if server.parts and "Range" in self.headers else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(found) - start))
        self.send_header("Content-Type", "text/html" if self.path.endswith("html.txt") else "text/plain")
        self.send_header("ETag", server.tag)
        if server.parts:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        with contextlib.suppress(OSError):  # the reader may have seen enough
            self.wfile.write(found[start : start + server.cut] if server.cut else found[start:])

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def web() -> Iterator[ThreadingHTTPServer]:
    with serving(_Web, files={}, asked=[], parts=True, cut=0, tag='"v1"') as server:
        yield server


def at(server: ThreadingHTTPServer, path: str, user: str = "") -> str:
    return f"http://{user}127.0.0.1:{server.server_address[1]}{path}"


def test_rows_are_read_from_the_web_as_they_come(web):
    web.files["/a%20b.jsonl"] = ROW.encode() * 3
    url = at(web, "/a b.jsonl?token=secret", "me:word@")
    assert locate(SourcePath(path=url), "", fetch=False) is None
    [file] = locate(SourcePath(path=url), "", fetch=True) or ()
    assert file.name == at(web, "/a b.jsonl")  # nothing secret in what is printed
    assert [row.where for row in read_rows(file)] == [f"{file.name}:{line}" for line in (1, 2, 3)]
    # base64("me:word")
    assert set(web.asked) == {("/a%20b.jsonl?token=secret", None, "Basic bWU6d29yZA==")}


def test_a_connection_that_breaks_off_is_taken_up_again_and_no_row_is_lost(web):
    web.files["/a.jsonl"] = b"".join(b'{"n": %d}\n' % n for n in range(1000))
    web.cut = 3000
    file = DataFile(at(web, "/a.jsonl"), "a.jsonl")
    assert [row.value["n"] for row in read_rows(file)] == list(range(1000))
    assert len(web.asked) > 2
    web.parts = False
    with pytest.raises(DataError, match="the connection was lost after 3000 bytes"):
        list(read_rows(file))


def test_a_file_that_changes_while_it_is_read_is_not_pieced_together(web):
    web.files["/a.txt"] = b"line\n" * 1000
    web.cut = 4000
    rows = read_rows(DataFile(at(web, "/a.txt"), "a.txt"))
    next(rows)
    web.tag = '"v2"'
    with pytest.raises(DataError, match="the file changed during the download"):
        list(rows)


def test_parquet_on_the_web_is_read_in_parts_or_whole(web):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    sink = pyarrow.BufferOutputStream()
    rows = [{"n": i, "text": os.urandom(500).hex()} for i in range(3000)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink, row_group_size=500)
    web.files["/a.parquet"] = sink.getvalue().to_pybytes()
    file = DataFile(at(web, "/a.parquet"), "a.parquet")
    assert [row.value for row in read_rows(file)] == rows
    assert [asked[1] for asked in web.asked if asked[1]]
    web.parts = False
    assert [row.value for row in read_rows(file)] == rows


def test_each_answer_of_the_web_has_its_own_remedy(web):
    web.files |= {"/403.txt": 403, "/500.txt": 500, "/html.txt": b"<html>", "/a.txt": b"x"}
    assert "does not exist (HTTP 404)" in refusal(at(web, "/gone.jsonl")).what
    assert "is denied (HTTP 403)" in refusal(at(web, "/403.txt")).what
    assert "cannot be downloaded (HTTP 500)" in refusal(at(web, "/500.txt")).what
    assert "is a web page" in refusal(at(web, "/html.txt")).what
    assert "not a supported file type" in refusal(at(web, "/folder/")).what
    assert "is a pattern" in refusal(at(web, "/*.txt")).what
    assert "split=x does not apply" in refusal(at(web, "/a.txt"), split="x").what
    closed = at(web, "/a.txt")
    web.server_close()
    assert "cannot be reached" in refusal(closed).what


def test_a_fingerprint_follows_a_file_on_the_web(web):
    web.files["/a.txt"] = b"x"
    file = DataFile(at(web, "/a.txt"), at(web, "/a.txt"))
    first = fingerprint(file)
    assert fingerprint(file) == first
    web.tag = '"v2"'
    assert fingerprint(file) != first
