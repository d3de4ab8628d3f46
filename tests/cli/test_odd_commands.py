"""What a user may type by mistake: each is one clear sentence with its remedy, and nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftcli.core.exit_codes import EXIT_CONFIG

ROWS = '{"prompt": "a", "completion": "b"}\n' * 20
ODD: dict[str, str] = {
    "plan hardware.gpu=0GiB": "hardware.gpu=0GiB  0GiB is not a known card",
    "plan hardware.gpu=0.0GB": "0.0GB is not a known card",
    "advise data.path=rows.jsonl hardware.gpu=0GiB": "0GiB is not a known card",
    "check data.path=": "data.path=  names no rows",
    "check data.path=row.jsonl": "/rows.jsonl or ",
    "check data.path=loop.jsonl": "does not exist (it is a broken link)",
    "check data.path=pipe.jsonl": "pipe.jsonl is no regular file",
    "init": "data.path  names no rows: a method is advised for those that are at hand\n  fix: add data.path=FILE",
    "advise": "data.path  names no rows",
    "advise rows.jsonl model=folder": "advised: name_or_path: folder  folder holds no model",
    "train --resume swept": "swept is a sweep, not a run\n  fix: name one of its jobs, or the sweep: ftcli sweep",
    "train --from swept": "swept is a sweep, not a run",
    "check method=rlaif judge=rules": "judge has no rules\n  fix: set judge.patterns=[…]",
    "check method=rlaif judge=rules judge.patterns=[]": "judge has no rules",
    "check method=rlaif judge=rules judge.patterns=['(']": "judge.patterns: ",
    "check method=grpo method.judge.type=rules": "method.judge has no rules",
    "check method=rlaif judge=openai judge.model=m judge.base_url=local": "judge.base_url=local is no address",
    "check method=rlaif stages.sft.data.path=row.jsonl": "did you mean /",
    "check method=rlaif stages.sft.peft=lorra": "did you mean stages.sft.peft=lora?",
    "train -m seed=1,2,1": "seed=1  is listed twice, and its jobs would be the same",
    "train -m seed=a,b": "seed=b  seed is 'b', which is not a whole number",
    "train -m seed=": "seed=  seed is '', which is not a whole number",
    "train -m method=sfft seed=1,2": "sfft is not a choice of method",
    "train -m method.betta=1,2 --dry-run": "method.betta=2",
}


@pytest.fixture
def folder(here: Path) -> Path:
    (here / "rows.jsonl").write_text(ROWS, encoding="utf-8")
    (here / "folder").mkdir()
    (here / "swept").mkdir()
    (here / "swept" / "sweep.json").write_text("{}", encoding="utf-8")
    (here / "loop.jsonl").symlink_to("loop.jsonl")
    os.mkfifo(here / "pipe.jsonl")
    return here


@pytest.mark.parametrize("words", ODD)
def test_a_mistake_is_told_with_its_remedy_and_writes_nothing(words, folder, typed):
    before = sorted(folder.rglob("*"))
    code, out, err = typed(*words.split())
    assert (code, out) == (EXIT_CONFIG, "")
    assert ODD[words] in err
    assert "\n  fix: " in err
    assert "/tmp/ftcli-" not in err
    assert sorted(folder.rglob("*")) == before


def test_each_problem_of_a_sweep_is_told_once(folder, typed):
    _, _, err = typed("train", "-m", "method=sfft", "seed=1,2,3")
    assert err.count("sfft is not a choice of method") == 1
