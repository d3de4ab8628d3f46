"""Hostile files end in no traceback, run no code, send nothing, open nothing elsewhere and print nothing that acts.

A sample here, ten thousand with `make chaos`. The controls show that the watch sees what each kind does to a naive
reader. Again for one seed: `python -m tests.chaos.hostile 7 8 LOG`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.chaos import hostile_files
from tests.conftest import REPOSITORY

NUM_CASES = 150


def test_the_front_half_withstands_hostile_files(tmp_path: Path) -> None:
    log = tmp_path / "hostile.jsonl"
    command = [sys.executable, "-m", "tests.chaos.hostile", "0", str(NUM_CASES), str(log)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=True)
    assert json.loads(again.stdout)["cases"] == NUM_CASES
    assert len(log.read_text(encoding="utf-8").splitlines()) == NUM_CASES  # none was carried out twice


def test_kinds_are_drawn_often_enough(tmp_path: Path) -> None:
    found: Counter[str] = Counter()
    for seed in range(200):
        folder = tmp_path / str(seed)
        folder.mkdir()
        found[hostile_files.draw(seed, folder)[0]] += 1
    assert set(found) == {kind.__name__ for kind in hostile_files.KINDS}
    assert min(found.values()) >= 5


CONTROL = """
import os, sys
from pathlib import Path
from tests.chaos import hostile, hostile_files

class Naive:
    '''Stands for the command line: reads a recipe as a careless program would.'''

    def __init__(self, act):
        self.act = act

    def __call__(self, words):
        self.act()
        return 0

def tag():
    import yaml
    yaml.unsafe_load(hostile_files.CODE.replace("os.system", "os.mkdir").replace("touch ", ""))

def code():
    exec(compile(Path("their_code.py").read_text(), str(Path("their_code.py").resolve()), "exec"), {})

def send():
    import socket
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    except OSError:
        pass

def start():
    import subprocess
    subprocess.run(["true"])

acts = {
    "tag": tag, "code": code, "send": send, "start": start, "open": lambda: open("/etc/hostname").close(),
    "write": lambda: open("/dev/shm/ftcli-control", "w").close(), "print": lambda: print(hostile_files.MARK),
    "environment": lambda: print(os.environ["FTCLI_CANARY"]), "bug": lambda: [][0],
}
import ftcli.cli
os.environ["FTCLI_CANARY"] = hostile_files.SECRET
place = Path(sys.argv[1]).resolve()
watch = hostile.Watch()
watch.roots = (str(place),)
for name, act in acts.items():
    ftcli.cli.main = Naive(act)
    print(name, "|", " ".join(hostile.carry_out(0, place, watch).faults).replace(chr(10), " "))
"""


def test_each_kind_works_against_a_naive_reader_and_is_seen(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONTROL, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=True)
    seen = dict(line.split(" | ", 1) for line in done.stdout.splitlines())
    expected = {
        "tag": "runs code of a stranger", "code": "runs code of a stranger", "send": "sends: socket.connect",
        "start": "starts: subprocess.Popen", "open": "opens /etc/hostname", "write": "writes /dev/shm/ftcli-control",
        "print": "prints a forged line", "environment": "shows the environment", "bug": "raises IndexError",
    }  # fmt: skip
    assert set(seen) == set(expected)
    for name, fault in expected.items():
        assert fault in seen[name], (name, seen[name])
    assert "compiles" in seen["code"]
