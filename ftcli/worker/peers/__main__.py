"""Runs the driver that the command line names, and writes its answer."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    driver, request, answer = sys.argv[1:]
    found = importlib.import_module(driver).tokenise(json.loads(Path(request).read_text(encoding="utf-8")))
    Path(answer).write_text(json.dumps(found), encoding="utf-8")
