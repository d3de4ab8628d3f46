"""A worker that is asked for answers, and what of its words the user sees."""

from __future__ import annotations

import json

from ftcli import tiny
from ftcli.launch.worker_request import answers


def test_a_worker_that_is_ended_since_enough_was_answered_says_nothing_of_it(capfd) -> None:
    config = json.loads((tiny.MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    told = answers("architecture", {"configs": [config] * 50})
    assert "layout" in next(told)
    told.close()
    assert capfd.readouterr().err == ""
