"""`ftcli show`: the composed configuration with its derived values, or the options of a group."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.build.resolve import run_of
from ftcli.cli import arguments, jobs
from ftcli.cli.render.configuration import group_options
from ftcli.core.errors import EXIT_DONE
from ftcli.settings.groups import GROUPS

SUMMARY = "the composed configuration, or the options of a group (ftcli show peft peft=lora)"
ORDER = 40


def run(argv: Sequence[str]) -> int:
    """Print the configuration, or the options of each group that is named alone."""
    options = arguments.parse(arguments.composing("show", __doc__ or ""), argv)
    groups = [word for word in options.overrides if word in (*GROUPS, "run")]
    options.overrides = [word for word in options.overrides if word not in groups]
    request = arguments.request(options)
    if not groups:
        jobs.resolve(request).show(as_json=options.json)
        return EXIT_DONE
    resolved = run_of(request)
    for group in groups:
        group_options(resolved, group, as_json=options.json)
    return EXIT_DONE
