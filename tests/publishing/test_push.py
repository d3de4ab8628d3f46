"""`ftcli push` sends what it prints and nothing else, to the hub alone, and only with its flag.

A real server on loopback plays the hub's addresses, reached as mirrors are: through HF_ENDPOINT.
"""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.core.exit_codes import EXIT_CHECKPOINT, EXIT_CONFIG
from ftcli.runs import rundir
from ftcli.runs.checkpoints import MANIFEST, write_manifest
from tests.cli.strange_runs import at_work, print_of, sound
from tests.conftest import REPOSITORY
from tests.hub_server import TOKEN, Hub, Repository, hub_server
from tests.reports.folders import result as plain_result

BASE = "Qwen/Qwen2.5-0.5B-Instruct"
REPO = "anna/support"
FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", MANIFEST}
_WRAPPER = """
import sys
from ftcli.cli import main
sys.addaudithook(lambda event, given: event == "socket.connect" and print(f"to:{given[1]}", file=sys.stderr))
code = main(sys.argv[1:])
loaded = {name.partition(".")[0] for name in sys.modules}
print("loaded:" + ",".join(sorted(loaded)), file=sys.stderr)
sys.exit(code)
"""
Push = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as server:
        yield server


@pytest.fixture
def run(here: Path) -> Path:
    """A finished run of an adapter on a model of the hub, whole by every digest."""
    run = sound(here / "runs" / "support" / "1")
    (run / rundir.PUSHES).unlink()
    spec = json.loads((run / rundir.SPEC).read_text())
    spec["model"] |= {"name_or_path": BASE, "licence": "apache-2.0"}
    rundir.write_json(run / rundir.SPEC, spec)
    kind = {"peft_type": "LORA", "base_model_name_or_path": BASE, "task_type": "CAUSAL_LM"}
    rundir.write_json(run / rundir.MODEL / "adapter_config.json", kind)
    seal(run)
    return run


def seal(run: Path) -> None:
    """Write the manifest of the model, and its digest into the result."""
    (run / rundir.MODEL / MANIFEST).unlink(missing_ok=True)
    write_manifest(run / rundir.MODEL)
    digest = sha256((run / rundir.MODEL / MANIFEST).read_bytes()).hexdigest()
    rundir.write_json(run / rundir.RESULT, {**plain_result(40), "model": BASE, "model_manifest": digest})


@pytest.fixture
def push(here: Path, hub: Hub) -> Push:
    """Types `ftcli push` at the hub; checks that no other host was reached, and that no token was told or written."""

    def typed(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HOME": str(here / "hf"), "HF_TOKEN": TOKEN}
        environment |= {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        environment |= {"no_proxy": "127.0.0.1", **variables}
        done = subprocess.run(
            [sys.executable, "-c", _WRAPPER, "push", *words],
            env=environment, cwd=here, capture_output=True, text=True, check=False,
        )  # fmt: skip
        reached = {line.removeprefix("to:") for line in done.stderr.splitlines() if line.startswith("to:")}
        port = hub.address.rpartition(":")[2]
        assert reached <= {f"('127.0.0.1', {port})"}, reached
        assert "Traceback" not in done.stderr
        assert TOKEN not in done.stdout + done.stderr
        assert "OfTheStore" not in done.stdout + done.stderr
        assert not [each for each in here.rglob("*") if each.is_file() and TOKEN.encode() in each.read_bytes()]
        return done

    return typed


def test_a_run_is_sent_as_it_was_printed_and_its_commit_noted(push: Push, hub: Hub, run: Path):
    before = push("support", REPO, "--dry-run")
    assert (before.returncode, hub.asked) == (0, [])
    assert "nothing was sent" in before.stdout
    done = push("support", REPO, "--push-to-hub")
    assert done.returncode == 0, done.stderr
    [(name, made)] = hub.repositories.items()
    assert (name, made.private) == (REPO, True)
    names = {path.name for path in (run / rundir.MODEL).iterdir()} | {"README.md"}
    assert {*made.files} == {*names, ".gitattributes"} > FILES
    for each in names - {"README.md"}:
        assert made.files[each] == (run / rundir.MODEL / each).read_bytes()
        assert f"{each}  {len(made.files[each]):,}" in before.stdout
    assert before.stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1]
    assert f"{BASE}, apache-2.0" in done.stdout
    assert "no row, no answer" in done.stdout
    assert f"base_model: {BASE}\n".encode() in made.files["README.md"]
    [noted] = json.loads((run / rundir.PUSHES).read_text())["pushes"]
    assert (noted["repository"], noted["endpoint"], noted["commit"]) == (REPO, hub.address, made.sha)
    assert (noted["private"], noted["folder"]) == (True, "model")
    # Once more: the hub has all of it, so no second commit is made.
    again = push("support", REPO, "--push-to-hub", "--json")
    assert json.loads(again.stdout)["pushed"]["commit"] == made.sha
    assert hub.asked.count("create") == 1


def test_nothing_is_sent_without_the_flag(push: Push, hub: Hub, run: Path):
    before = print_of(run)
    done = push("support", REPO)
    assert done.returncode == EXIT_CONFIG
    assert "add --push-to-hub, or --dry-run" in done.stderr
    assert (hub.asked, hub.repositories, print_of(run)) == ([], {}, before)
    heavy = {"torch", "transformers", "peft", "datasets", "huggingface_hub"}
    assert not heavy & {*done.stderr.rpartition("loaded:")[2].strip().split(",")}
    both = push("support", REPO, "--dry-run", "--push-to-hub")
    assert (both.returncode, hub.asked) == (EXIT_CONFIG, [])


def test_public_is_said_and_an_existing_repository_is_never_made_so(push: Push, hub: Hub, run: Path):
    assert push("support", REPO, "--push-to-hub", "--public").returncode == 0
    assert hub.repositories[REPO].private is False
    hub.stored.clear()
    commits = len(hub.repositories[REPO].commits)
    refused = push("support", REPO, "--push-to-hub")
    assert f"{REPO} is public, and this would have to be private" in refused.stderr
    assert "say --public" in refused.stderr
    hub.repositories[REPO].private = True
    refused = push("support", REPO, "--push-to-hub", "--public")
    assert "leave out --public" in refused.stderr
    assert (len(hub.repositories[REPO].commits), hub.stored) == (commits, {})


def test_what_would_be_loaded_beside_it_is_removed_only_where_that_is_said(push: Push, hub: Hub, run: Path):
    there = hub.repositories[REPO] = Repository(private=True)
    there.files |= {"model.safetensors": b"old", "LICENSE": b"mine", ".gitattributes": b""}
    there.commit()
    refused = push("support", REPO, "--push-to-hub")
    assert refused.returncode == EXIT_CONFIG
    assert "has model.safetensors, which programs would load" in refused.stderr
    assert len(there.commits) == 1
    done = push("support", REPO, "--push-to-hub", "--replace")
    assert "removed there: model.safetensors" in done.stdout
    assert "also there: LICENSE" in done.stdout
    assert "model.safetensors" not in there.files
    assert there.files["LICENSE"] == b"mine"
    assert len(there.commits) == 2


@pytest.mark.parametrize(
    ("asked", "fault", "told", "remedy"),
    [
        ("whoami", 401, "answered HTTP 401", "`hf auth login`"),
        ("create", 403, "answered HTTP 403 (it says 403) when the repository was to be made", "the right to write"),
        ("create", 409, "answered HTTP 409", "has one of that name"),
        ("modes", 403, "while README.md was sent", "the right to write"),
        ("store", 413, "answered HTTP 413", "at most 5 GB"),
        ("card", 503, "answered HTTP 503", "goes on where it stopped"),
        ("commit", 409, "answered HTTP 409 (it says 409) when the commit was to be made", "push again"),
        ("commit", 503, "answered HTTP 503", "goes on where it stopped"),
        ("commit", "cut", "was cut off", "goes on where it stopped"),
        ("create", "cut", "was cut off", "goes on where it stopped"),
    ],
)
def test_each_failure_says_what_is_there_and_the_same_command_goes_on(
    asked: str, fault: object, told: str, remedy: str, push: Push, hub: Hub, run: Path
):
    hub.faults[asked] = fault
    failed = push("support", REPO, "--push-to-hub")
    assert failed.returncode == EXIT_CONFIG, failed.stderr
    assert told in failed.stderr
    assert remedy in failed.stderr
    assert f"{REPO} {'was made and is empty' if REPO in hub.repositories else 'is as it was'}" in failed.stderr
    assert not (run / rundir.PUSHES).exists()
    if REPO in hub.repositories:
        assert {*hub.repositories[REPO].files} == {".gitattributes"}
    kept = len(hub.stored)
    if asked == "commit":
        assert f"the hub took {len([*(run / rundir.MODEL).iterdir()]) + 1} of" in failed.stderr
    hub.faults.clear()
    hub.asked.clear()
    done = push("support", REPO, "--push-to-hub")
    assert done.returncode == 0, done.stderr
    assert hub.asked.count("store") == len(hub.stored) - kept  # what the hub has is not sent again
    assert {*hub.repositories[REPO].files} >= FILES


def test_a_file_that_is_cut_off_is_sent_again_and_a_lost_answer_is_looked_up(push: Push, hub: Hub, run: Path):
    hub.faults = {"store": (1, "cut"), "commit": "lost"}  # which the hub's library itself tries again
    done = push("support", REPO, "--push-to-hub")
    assert done.returncode == 0, done.stderr
    assert hub.asked.count("store") == len(hub.stored) + 1
    assert len(hub.repositories[REPO].commits) == 2
    assert json.loads((run / rundir.PUSHES).read_text())["pushes"][0]["commit"] == hub.repositories[REPO].sha


def test_a_report_tells_where_a_run_was_pushed(push: Push, hub: Hub, run: Path, typed):
    assert "pushed" not in typed("report", "support")[1]
    assert "pushes" not in json.loads(typed("report", "support", "--json")[1])
    for words in ((REPO,), (REPO,), ("anna/open", "--public")):
        assert push("support", *words, "--push-to-hub").returncode == 0
    shas = {name: each.sha[:12] for name, each in hub.repositories.items()}
    day = json.loads((run / rundir.PUSHES).read_text())["pushes"][-1]["date"][:10]
    code, out, _ = typed("report", "support")
    [line] = [line for line in out.splitlines() if line.startswith("  pushed")]
    # Of two pushes to one repository the last.
    first = f"{hub.address}/{REPO} at {shas[REPO]}, from model, private, {day}"
    second = f"{hub.address}/anna/open at {shas['anna/open']}, from model, public, {day}"
    assert (code, line.split(maxsplit=1)[1]) == (0, f"{first}; {second}")
    assert html.escape(first) in (run / rundir.REPORT).read_text(encoding="utf-8")
    pushes = json.loads(typed("report", "support", "--json")[1])["pushes"]
    assert [each["repository"] for each in pushes] == [REPO, REPO, "anna/open"]


def test_a_report_of_a_run_whose_pushes_are_damaged_shows_the_rest(run: Path, typed):
    _damaged_record(run)
    code, out, _ = typed("report", "support")
    assert code == 0
    assert "  trained " in out
    assert "pushes.json is damaged, or of a later version of ftcli" in out
    assert json.loads(typed("report", "support", "--json")[1])["pushes"] is None


def test_a_hub_without_xet_storage_is_told_how_to_be_asked(push: Push, hub: Hub, run: Path):
    pytest.importorskip("hf_xet")
    failed = push("support", REPO, "--push-to-hub", HF_HUB_DISABLE_XET="0")
    assert failed.returncode == EXIT_CONFIG
    assert "set HF_HUB_DISABLE_XET=1" in failed.stderr


def test_no_token_or_no_network_is_told_before_anything_is_asked(push: Push, hub: Hub, run: Path):
    without = push("support", REPO, "--push-to-hub", HF_TOKEN="")
    assert "there is no token for the hub" in without.stderr
    offline = push("support", REPO, "--push-to-hub", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids the network" in offline.stderr
    assert hub.asked == []


def _unfinished(run: Path) -> None:
    (run / rundir.RESULT).unlink()


def _altered(run: Path) -> None:
    weights = run / rundir.MODEL / "adapter_model.safetensors"
    weights.write_bytes((2).to_bytes(8, "little") + b"[]")


def _other_manifest(run: Path) -> None:
    found = run / rundir.RESULT
    rundir.write_json(found, {**json.loads(found.read_text()), "model_manifest": "0" * 64})


def _no_digest(run: Path) -> None:
    rundir.write_json(run / rundir.RESULT, plain_result(40))


def _local_base(run: Path) -> None:
    kind = {"peft_type": "LORA", "base_model_name_or_path": str(tiny.MODEL_DIR), "task_type": "CAUSAL_LM"}
    rundir.write_json(run / rundir.MODEL / "adapter_config.json", kind)
    seal(run)


def _linked(run: Path) -> None:
    (run / rundir.MODEL / "README.md").symlink_to("/etc/hostname")


def _strange_spec(run: Path) -> None:
    spec = json.loads((run / rundir.SPEC).read_text())
    spec["choices"]["method"] = "unheard-of"
    rundir.write_json(run / rundir.SPEC, spec)


def _no_manifest(run: Path) -> None:
    (run / rundir.MODEL / MANIFEST).unlink()


def _damaged_record(run: Path) -> None:
    (run / rundir.PUSHES).write_text("[]\n")


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (_unfinished, EXIT_CONFIG, "is not finished"),
        (_altered, EXIT_CHECKPOINT, "does not match its sha256"),
        (_other_manifest, EXIT_CHECKPOINT, "is not the one that the run wrote"),
        (_no_manifest, EXIT_CHECKPOINT, "manifest.json is missing, so no digest is known"),
        (_no_digest, EXIT_CHECKPOINT, "holds no digest of the model"),
        (_local_base, EXIT_CONFIG, "a folder of this machine"),
        (_linked, EXIT_CONFIG, "is a link that leads out of the folder"),
        (_strange_spec, EXIT_CONFIG, "does not have"),
        (_damaged_record, EXIT_CONFIG, "is damaged"),
    ],
)
def test_what_is_not_whole_is_not_sent(
    change: Callable[[Path], None], code: int, told: str, push: Push, hub: Hub, run: Path
):
    change(run)
    before = print_of(run)
    refused = push("support", REPO, "--push-to-hub")
    assert (refused.returncode, told in refused.stderr) == (code, True), refused.stderr
    assert "fix: " in refused.stderr
    assert (hub.asked, print_of(run)) == ([], before)


def test_a_run_at_work_is_not_sent(push: Push, hub: Hub, run: Path):
    with at_work(run):
        assert "in use by another process" in push("support", REPO, "--push-to-hub").stderr
    assert hub.asked == []


def test_an_export_is_sent_with_a_card_that_tells_what_is_left_and_what_was_edited(push: Push, hub: Hub, run: Path):
    export = run / rundir.EXPORTS / "gguf-q8_0"
    export.mkdir(parents=True)
    (export / "support.gguf").write_bytes(b"GGUF" + bytes(2000))
    write_manifest(export)
    (export / "notes.txt").write_text("mine", encoding="utf-8")
    done = push("support", REPO, "--export", "gguf-q8_0", "--push-to-hub")
    assert done.returncode == 0, done.stderr
    assert {*hub.repositories[REPO].files} == {".gitattributes", "README.md", "support.gguf", MANIFEST}
    assert "not sent  notes.txt" in done.stdout
    assert "written for this" in done.stdout
    (export / "README.md").write_text("---\ntags: []\n---\n# Mine\n", encoding="utf-8")
    edited = push("support", REPO, "--export", "gguf-q8_0", "--dry-run")
    assert "edited, and sent as it is: read it for rows" in edited.stdout
    unknown = push("support", REPO, "--export", "..", "--dry-run")
    assert "exports of it: gguf-q8_0" in unknown.stderr
    elsewhere = push(str(tiny.MODEL_DIR), REPO, "--push-to-hub")
    assert "lies in no run" in elsewhere.stderr
