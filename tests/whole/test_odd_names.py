"""A run in a directory, and from a file, whose names hold what shells, lists and overrides give a meaning to."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

ROWS = "".join(json.dumps({"prompt": f"Add {n} and 1.", "completion": str(n + 1)}) + "\n" for n in range(9))
RUN = "out put/läuft (1), a=b"


def test_a_run_with_an_odd_name_is_resumed_measured_merged_and_used(ftcli_run, tmp_path: Path):
    (tmp_path / "rows=1, (ä).jsonl").write_text(ROWS, encoding="utf-8")
    words = (
        "rows=1, (ä).jsonl",
        "peft=lora",
        "train.max_steps=2",
        "train.save_steps=1",
        "hardware.num_threads=1",
        f"run.dir={RUN}",
    )
    done = ftcli_run("train", *words, cwd=tmp_path)
    assert "data.path=rows=1, (ä).jsonl" in done.stderr
    suggested = [shlex.split(line) for line in done.stdout.partition("next\n")[2].splitlines()]
    assert ["ftcli", "chat", RUN, "--base"] in suggested
    assert shlex.split((tmp_path / RUN / "command.sh").read_text().splitlines()[-1])[2:] == [*words]
    ftcli_run("train", "--resume", RUN, "train.max_steps=3", cwd=tmp_path)
    assert re.search(r"^  steps +3 in ", ftcli_run("report", RUN, cwd=tmp_path).stdout, re.M)
    measured = ftcli_run("eval", RUN, "--data", "rows=1, (ä).jsonl", "--json", cwd=tmp_path)
    assert json.loads(measured.stdout)["rows"] == 9
    assert ftcli_run("generate", RUN, "Add 1 and 1.", "--max-new-tokens", "2", cwd=tmp_path).stdout.startswith("> Add")
    ftcli_run("merge", RUN, cwd=tmp_path)
    again = ftcli_run("train", "--from", f"{RUN}", f"run.dir={RUN}/../x=1", "--dry-run", cwd=tmp_path)
    assert "rows=1, (ä).jsonl" in again.stdout
    on_top = ftcli_run("train", "rows=1, (ä).jsonl", f"model={RUN}", "--dry-run", cwd=tmp_path)
    assert f"model={RUN} is model.name_or_path={RUN}" in on_top.stderr
