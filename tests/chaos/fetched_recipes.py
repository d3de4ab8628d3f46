"""Hostile recipes that are fetched from an address: what fetching them, and the commands after it, do.

    python -m tests.chaos.fetched_recipes COUNT FOLDER

Prints one line of JSON: how many were refused, how many were written, and the faults.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos import hostile, hostile_files
from tests.loopback import Served, serving


def typed(words: list[str], watch: hostile.Watch, folder: Path, allowed: str = "") -> tuple[int, list[str]]:
    """Run a command under the watch; its exit code and its faults, without those that begin as `allowed`."""
    code, found = hostile.typed(words, watch, folder)
    return code, [f"{words[0]}: {each}" for each in found if not (allowed and each.startswith(allowed))]


def carry_out(seed: int, place: Path, watch: hostile.Watch, server: Any) -> tuple[bool, list[str]]:
    """Fetch the recipe of a seed and let the commands meet it; whether it was written, and the faults."""
    folder = place / str(seed)
    theirs = folder / "theirs"
    theirs.mkdir(parents=True)
    hostile_files.recipe(random.Random(seed), theirs)
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4, encoding="utf-8")
    (folder / "their_code.py").write_text(
        f"open('{hostile_files.PWNED}', 'w').close()\nrun = print\n", encoding="utf-8"
    )
    server.content = (theirs / "r.yaml").read_bytes()
    os.chdir(folder)
    digest = hashlib.sha256(server.content).hexdigest()
    address = f"http://127.0.0.1:{server.server_port}/mine.yaml#sha256={digest}"
    code, faults = typed(["recipe", "fetch", address], watch, folder, "sends: ")
    written = (folder / "mine.yaml").exists()
    if written != (code == 0):
        faults.append(f"ends with {code}, and {'was' if written else 'was not'} written")
    for words in (["check"], ["plan"], ["recipe", "inspect"], ["train", "--dry-run"]) if written else ():
        named = "mine.yaml" if words[0] == "recipe" else "recipe=mine.yaml"
        faults += typed([*words, named], watch, folder)[1]
    if list(place.rglob(hostile_files.PWNED)):
        faults.append("runs code of a stranger")
    return written, [f"seed {seed}: {each}" for each in faults]


def main(count: int, folder: str) -> None:
    """Carry out the seeds."""
    root = os.path.realpath(folder)
    os.environ |= {
        "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HOME": f"{root}/home", "TMPDIR": root,
        "XDG_CACHE_HOME": f"{root}/cache", "FTCLI_CANARY": hostile_files.SECRET,
    }  # fmt: skip
    tempfile.tempdir = root
    watch = hostile.Watch()
    watch.roots = (root,)
    written, faults = 0, list[str]()
    with serving(Served, content=b"") as server:
        for seed in range(count):
            there, own = carry_out(seed, Path(root), watch, server)
            written += there
            faults += own
    print(json.dumps({"written": written, "refused": count - written, "faults": faults}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
