"""`ftcli recipe fetch SOURCE`: get a recipe that is pinned to its bytes or its commit, and say what it would touch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word

SUMMARY = "get a recipe from an address, a git or a hub repository, pinned; nothing of it runs"
ORDER = 80


def run(argv: Sequence[str]) -> int:
    """Write the recipe, and its lock where one lies beside it, and print what it would touch."""
    parser = arguments.parser("recipe fetch", __doc__ or "")
    sources = "https://…#sha256=…, git+URL@COMMIT:PATH or hub:ORG/NAME@COMMIT:PATH"
    parser.add_argument("source", help=sources)
    parser.add_argument("--to", type=Path, metavar="FILE", help="write it to FILE, which must not exist yet")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    from ftcli.build import inspection  # only here: help needs no checks
    from ftcli.recipes import fetching

    where = "ftcli recipe fetch"
    found = fetching.fetched(options.source, where)
    target: Path = options.to or Path(found.name)
    if target.suffix not in (".yaml", ".yml", ".lock"):
        raise ConfigError(Problem(where, "what is fetched needs a file name", "give one: --to NAME.yaml"))
    with tempfile.TemporaryDirectory(prefix="ftcli-") as folder:
        files = fetching.vet(found, target.name, Path(folder))
        if problems := fetching.problems_of_target(target, [file.name for file in files]):
            raise ConfigError(*problems)
        written = [Path(shutil.copyfile(file, target.with_name(file.name))) for file in files]
    touched = inspection.of_recipe(target) if target.suffix != ".lock" else None
    if options.json:
        told = touched.to_data() if touched else None
        output.data({"files": list(map(str, written)), "sha256": found.digest, "touches": told})
        return EXIT_DONE
    if touched is not None:
        output.lines(inspection.lines(touched))
    output.say(f"{' and '.join(map(str, written))} written, sha256 {found.digest}; nothing of it has run")
    if touched is not None:
        output.say(f"  check it with ftcli check {shell_word(f'recipe={target}')}")
    return EXIT_DONE
