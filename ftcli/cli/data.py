"""`ftcli data check FILE`: what a data file holds as a method reads it: format, rows, tokens, faults."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ftcli import sources
from ftcli.build import spec_of
from ftcli.cli import arguments, say
from ftcli.countcache import count
from ftcli.data.columns import apply_mapping
from ftcli.data.formats import FORMATS, recognise
from ftcli.data.read import peek_rows
from ftcli.errors import EXIT_DONE
from ftcli.methods import get_method
from ftcli.plan import tokenizer_folder


def run(argv: Sequence[str]) -> int:
    """Check the file of a composed run: `ftcli data check data.path=FILE method=dpo`."""
    parser = arguments.parser("data", __doc__ or "")
    parser.add_argument("action", choices=("check",))
    arguments.add_overrides(parser)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    options.overrides = [word if "=" in word else f"data.path={word}" for word in options.overrides]
    spec = spec_of(arguments.request(options))
    method = get_method(spec.choices["method"])
    file = sources.train_file(spec.data, method)
    [row] = peek_rows(file)
    row = apply_mapping(row, spec.data.columns or {})
    form = FORMATS[spec.data.format] if spec.data.format != "auto" else recognise(row.value)
    assert form is not None  # the configuration check has refused a file without a format
    counted = count(file, spec.data, method, tokenizer_folder(spec))
    answer: dict[str, Any] = {"file": str(file), "format": form.name, "kind": form.kind, **dataclasses.asdict(counted)}
    if options.json:
        say.data(answer)
    else:
        say.table([(key, str(value)) for key, value in answer.items()])
    return EXIT_DONE
