"""The page of a report: it needs nothing from elsewhere, and what a stranger wrote into a run stays text."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ftcli.core.exit_codes import EXIT_INTERRUPTED
from ftcli.reports.run_record import run_record
from ftcli.reports.sections import sections
from ftcli.runs import run_end, rundir
from ftcli.runs.run_end import RunEnd
from ftcli.sweeps.sweep_folder import Sweep, SweepJob
from tests.reports.folders import HOSTILE, keep_rows, result, run_folder


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text by element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open = [""]
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "input"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self._open[-1], []).append(data)


def test_one_run_has_its_page_in_its_folder(typed, here: Path):
    run = run_folder(here / "run")
    code, out, err = typed("report", "run")
    assert code == 0
    assert re.search(r"  held-out loss +3.0000 → 2.2000", out)
    assert re.search(r"  loss by step +█[▁-█]+▁  2.9\d* → 2.0\d*", out)
    assert f"page {run / rundir.REPORT}" in err
    page = (run / rundir.REPORT).read_text(encoding="utf-8")
    for text in (
        "the loss leapt",
        "the tracker wandb kept the curve to step 1: no wand",
        "ftcli train peft=lora",
        "3.0000 → 2.2000",
    ):
        assert text in page


def test_loss_and_reward_in_training_and_held_out_are_lines_of_blocks_or_of_ascii(typed, here: Path, monkeypatch):
    run = run_folder(here / "run")
    lines = [{"schema": 1, "step": step, "reward": step / 10, "eval_reward": 1 - step / 10} for step in range(1, 9)]
    with open(run / rundir.METRICS, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in lines)
    _, out, _ = typed("report", "run")
    drawn = dict(re.findall(r"^  (.+) by step +([▁-█]+)  ", out, re.MULTILINE))
    assert list(drawn) == ["held-out loss", "loss", "held-out reward", "reward"]
    assert (drawn["reward"], drawn["held-out reward"]) == ("▁▂▃▄▅▆▇█", "█▇▆▅▄▃▂▁")
    monkeypatch.setenv("LC_ALL", "C")
    _, out, _ = typed("report", "run")
    assert out.isascii()
    assert re.search(r"  reward by step +_\.-~=\+\*#  0\.1 -> 0\.8\n", out)


def test_the_page_takes_nothing_from_elsewhere_and_runs_its_own_script_alone(typed, here: Path):
    typed("report", str(run_folder(here / "run")))
    page = Elements((here / "run" / rundir.REPORT).read_text(encoding="utf-8"))
    assert not [tag for tag, own in page.found if {"src", "href", "onclick", "onload", "style"} & own.keys()]
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.found}
    (policy,) = (own["content"] for tag, own in page.found if own.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    script = page.text["script"][-1]
    for rule, text in (("script-src", script), ("style-src", "".join(page.text["style"]))):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_what_a_stranger_wrote_stays_text(typed, here: Path):
    run = run_folder(here / "run", **{HOSTILE: 1.0, "eval_" + HOSTILE: 2.0})
    (run / rundir.COMMAND).write_text(f"#!/bin/sh\n{HOSTILE}\n", encoding="utf-8")
    rundir.write_json(run / rundir.RESULT, {**result(40), "model": HOSTILE})
    rundir.write_json(run / rundir.ENVIRONMENT, {"schema": 1, HOSTILE: HOSTILE})
    keep_rows(run, HOSTILE)
    code, _, err = typed("report", "run")
    assert code == 0, err
    text = (run / rundir.REPORT).read_text(encoding="utf-8")
    page = Elements(text)
    assert not [tag for tag, _ in page.found if tag == "img"]
    assert [tag for tag, _ in page.found].count("script") == 2
    assert "\u202e" not in text
    shown = "</script><img src=x onerror=document.title='taken'>"
    assert shown in "".join(page.text["mark"])
    assert len([each for each in page.text["pre"] if shown in each]) == 5  # command, prompt, two answers, environment
    (data,) = (text for text in page.text["script"] if text.startswith("["))
    assert HOSTILE in {curve["key"] for panel in json.loads(data) for curve in panel["curves"]}
    code, _, _ = typed("report", "run", "--to", "curves.csv")
    rows = list(csv.reader((here / "curves.csv").read_text(encoding="utf-8").splitlines()))
    assert not [cell for row in rows for cell in row[:2] if cell.startswith(("=", "+", "-", "@"))]


def test_several_runs_lie_over_each_other_in_a_file_of_their_own(typed, here: Path):
    for name in ("one", "two"):
        run_folder(here / name)
    assert typed("report", "one", "two")[0] == 2
    code, _, err = typed("report", "one", "two", "--to", "both.html")
    assert code == 0, err
    page = (here / "both.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<polyline class="curve', page.split("Other measures")[0].split("gradient norm")[0])) >= 4
    assert not (here / "one" / rundir.REPORT).exists()
    assert typed("report", "one", "two", "--to", "both.svg")[0] == 0
    ElementTree.fromstring((here / "both.svg").read_text(encoding="utf-8"))
    assert typed("report", "one", "--to", "both.pdf")[0] == 2
    code, _, err = typed("report", "one", "--to", "both.png")
    assert code == 2
    assert "fix: --to both.svg, or open the page" in err


def lines_of_legend(page: str) -> list[str]:
    return re.findall(r"</svg>([^<]+)</li>", page.split("gradient norm")[0])


def test_stages_of_several_pipelines_are_told_apart(typed, here: Path):
    for name in ("one", "two"):
        for stage in ("sft", "dpo"):
            run_folder(here / name / stage)
        rundir.write_json(here / name / rundir.PIPELINE, {"schema": 1, "stages": {"sft": {}, "dpo": {}}})
    code, _, err = typed("report", "one", "two", "one", "--to", "both.html")
    assert code == 0, err
    page = (here / "both.html").read_text(encoding="utf-8")
    assert set(re.findall(r'<th scope="col">([^<]+)</th>', page)) >= {"one/sft", "one/dpo", "two/sft", "two/dpo"}
    assert sorted(each for each in lines_of_legend(page) if each.endswith(": loss")) == [
        "one/dpo: loss", "one/sft: loss", "two/dpo: loss", "two/sft: loss",
    ]  # fmt: skip
    assert typed("report", "one")[0] == 0
    assert ">sft<" in (here / "one" / rundir.REPORT).read_text(encoding="utf-8")


def test_runs_of_one_name_are_told_apart_by_their_folders(typed, here: Path):
    for name in ("x", "y"):
        run_folder(here / name / "sft" / "1")
    assert typed("report", "x/sft/1", "y/sft/1", "x/sft/1", "--to", "both.csv")[0] == 0
    rows = list(csv.reader((here / "both.csv").read_text(encoding="utf-8").splitlines()))
    assert {row[0] for row in rows[1:]} == {"x/sft/1", "y/sft/1"}


def test_a_sweep_has_a_table_and_a_page_in_its_folder(typed, here: Path):
    place, jobs = here / "runs" / "search", []
    for number, pace in enumerate((10, 30), 1):
        run = run_folder(place / f"lr-{number}", f"train.learning_rate={number}e-4", pace=pace)
        loss = {"before": 3.0, "after": 3.0 - number}
        rundir.write_json(run / rundir.RESULT, {**result(40), "eval_loss": loss})
        run_end.write(run, RunEnd(code=0))
        jobs.append(SweepJob(name=run.name, varied={"train.learning_rate": f"{number}e-4"}, words=("model=tiny",)))
    jobs.append(SweepJob(name="lr-3", varied={"train.learning_rate": "3e-4"}, words=("model=tiny",)))
    Sweep(folder=place, kind="grid", words=["train.learning_rate=1e-4,2e-4,3e-4"], place=str(here), jobs=jobs).write()
    code, out, err = typed("report", "runs/search")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()] == ["run", "lr-2", "lr-1", "lr-3"]
    page = (place / rundir.REPORT).read_text(encoding="utf-8")
    assert re.findall(r'<th scope="col">([^<]*/[^<]*)</th>', page) == ["search/lr-2", "search/lr-1"]
    assert not (place / "lr-1" / rundir.REPORT).exists()
    assert json.loads(typed("report", "runs/search", "--json")[1])["runs"][0]["name"] == "lr-2"


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_run_that_stands_anywhere_has_a_report(typed, here: Path, steps: int):
    run = run_folder(here / "run", steps=max(steps, 1), done=False)
    if not steps:
        (run / rundir.METRICS).unlink()
    with rundir.at_work(run):
        code, out, err = typed("report", "run")
    assert (code, err.count("page ")) == (0, 1)
    assert "at work" in out
    run_end.write(run, RunEnd(code=EXIT_INTERRUPTED, message="stopped by SIGTERM"))
    code, out, _ = typed("report", "run")
    assert code == 0
    assert "stopped by SIGTERM" in out
    assert f"ftcli train --resume {run}" in out
    stands = json.loads(typed("report", "run", "--json")[1])
    assert (stands["state"], stands["step"], stands["end"]["code"]) == ("stopped", steps, EXIT_INTERRUPTED)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (rundir.METRICS, "\xff"), (rundir.METRICS, "[" * 100_000), (rundir.LEDGER, "[]"), (rundir.LEDGER, "{}"),
        (rundir.ENVIRONMENT, "7"), (rundir.SHOWN, "7"), (rundir.SHOWN, '{"rows": [{}]}'), (rundir.ANSWERS, "[]"),
        (rundir.ANSWERS, '{"after": [{"where": 1}]}'), (rundir.COMMAND, "\0"),
        (rundir.RESULT, '{"schema": 1}'), (rundir.SPEC, "{"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_told_and_nothing_in_it_changes(typed, here: Path, file: str, text: str):
    run = run_folder(here / "run")
    (run / file).write_text(text, encoding="latin-1")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    code, _, err = typed("report", "run")
    assert code in (0, 2)
    assert "Traceback" not in err
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.name != rundir.REPORT}
    assert after == before
    if code:
        assert not (run / rundir.REPORT).exists()
        assert str(run) in err


def test_rows_answers_and_settings_of_its_own_are_on_the_page(typed, here: Path):
    run_folder(here / "run", "train.max_steps=40", "train.learning_rate=3e-5")
    typed("report", "run")
    page = Elements((here / "run" / rundir.REPORT).read_text(encoding="utf-8"))
    assert page.text["mark"] == ["Thank you", "."]
    assert page.text["sub"] == ["×0.5"]
    assert "3 tokens in its middle are left out here." in page.text["p"]
    assert [text for text in page.text["h3"] if "reward" in text] == ["before, reward 0.25", "after, reward 1"]
    rows = iter([*page.text["th"], *page.text["td"]])
    assert {"peft", "train.max_steps", "train.learning_rate"} <= {*rows}
    for cell in ("lora", "none", "3e-05", "40"):
        assert cell in page.text["td"]


def test_a_page_to_be_shown_around_has_no_rows_and_no_answers(typed, here: Path):
    run_folder(here / "run")
    assert typed("report", "run", "--no-rows", "--to", "page.html")[0] == 0
    page = (here / "page.html").read_text(encoding="utf-8")
    assert "Thank you" not in page
    assert "Plan and reality" in page


def test_no_page_shows_a_password_that_somebody_wrote_into_a_folder(typed, here: Path):
    run = run_folder(here / "run", "run.name=telltale")
    spec = (run / rundir.SPEC).read_text(encoding="utf-8")
    (run / rundir.SPEC).write_text(spec.replace("telltale", "https://me:s3cret@host/x"), encoding="utf-8")
    (run / rundir.COMMAND).write_text("#!/bin/sh\nftcli train\n", encoding="utf-8")
    code, out, err = typed("report", "run")
    page = (run / rundir.REPORT).read_text(encoding="utf-8") if code == 0 else ""
    assert "s3cret" not in out + err + page


def test_what_was_planned_stands_beside_what_came_of_it(here: Path):
    record = run_record(run_folder(here / "run", "train.per_device_train_batch_size=4", "train.max_steps=50"), "run")
    measured = {"machine": {"peak_reserved_gib": 18.24}, "parameters": {"trainable": 2000, "total": 10_000}}
    record = replace(
        record, planned={"memory_gib": 17.9, "seconds": 60.0}, result={**(record.result or {}), **measured}
    )
    [planned] = [each for each in sections(record) if each.title == "Plan and reality"]
    assert planned.rows == [
        ("steps", "50", "40, 2 epochs"), ("batch", "4 rows or blocks a step", "100 tokens a step"),
        ("trained parameters", "peft=lora", "2.00k of 10.00k"),
        ("memory of the card", "17.9 GiB", "18.2 GiB at its peak"),
        ("time of the steps", "1 min 00 s", "1 min 15 s"),
    ]  # fmt: skip


def test_a_folder_that_takes_no_page_is_a_warning_and_a_page_elsewhere_an_error(typed, here: Path):
    run_folder(here / "run")
    (here / "run" / rundir.REPORT).mkdir()
    code, out, err = typed("report", "run")
    assert code == 0
    assert "held-out loss" in out
    assert "--to FILE.html" in err
    assert typed("report", "run", "--to", "nowhere/page.html")[0] == 2
