"""What was measured is kept in the run, and shown from files that may be anybody's."""

from __future__ import annotations

import json
from pathlib import Path

from ftcli.evaluations import record

LINE = {
    "name": "colours exact_match",
    "before": {"value": 0.25, "low": 0.1, "high": 0.4, "rows": 40, "interval": "Wilson"},
    "after": {"value": 0.5, "low": 0.35, "high": 0.65, "rows": 40, "interval": "Wilson"},
    "difference": {"value": 0.25, "low": 0.1, "high": 0.4, "rows": 40, "interval": "paired bootstrap"},
}


def test_evaluations_are_kept_side_by_side_and_shown_oldest_first(tmp_path: Path):
    files = [record.keep(tmp_path, "tasks", {"title": title, "lines": [LINE]}) for title in ("first", "second")]
    assert len(set(files)) == 2
    shown = [*record.kept(tmp_path)]
    assert [title.partition(",")[0] for title, _ in shown] == ["first", "second"]
    assert shown[0][1] == [
        ("", "before", "after", "after - before", "rows"),
        *[
            (
                "colours exact_match",
                "0.2500 [0.1000, 0.4000]",
                "0.5000 [0.3500, 0.6500]",
                "+0.2500 [+0.1000, +0.4000]",
                "40",
            )
        ],
    ]
    assert record.intervals_of([LINE]) == "95 % intervals: Wilson, paired bootstrap"


def test_a_file_that_is_not_ours_is_named_and_hides_no_other(tmp_path: Path):
    record.keep(tmp_path, "tasks", {"title": "good", "lines": [LINE]})
    for name, text in (
        ("20200101-a.json", "{"),
        ("20200101-b.json", "[]"),
        ("20200101-c.json", json.dumps({"schema": 99, "title": "x", "date": "y", "lines": []})),
        ("20200101-d.json", json.dumps({"schema": 1, "title": "x", "date": "y", "lines": [{"name": "a"}]})),
        ("20200101-e.json", json.dumps({"schema": 1, "title": "x", "date": "y", "lines": 3})),
    ):
        (tmp_path / record.FOLDER / name).write_text(text, encoding="utf-8")
    titles = [title for title, table in record.kept(tmp_path) if not table]
    assert len(titles) == 5
    assert all("damaged, or of a later version" in title for title in titles)
    assert sum(bool(table) for _, table in record.kept(tmp_path)) == 1


def test_a_run_without_evaluations_has_none(tmp_path: Path):
    assert [*record.kept(tmp_path)] == []
