"""`ftcli show`: the composed configuration with its derived values, or the options of a group."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.build.resolve import described
from ftcli.cli import arguments, jobs
from ftcli.cli.render.configuration import group_options, pipeline_options
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.settings.groups import GROUPS

SUMMARY = "the composed configuration, or the options of a group (ftcli show peft peft=lora)"
ORDER = 40


def run(argv: Sequence[str]) -> int:
    """Print the configuration, or the options of each group that is named alone."""
    parser = arguments.composing("show", __doc__ or "")
    arguments.add_from(parser)
    options = arguments.parse(parser, argv)
    groups = [word for word in options.overrides if word in (*GROUPS, "run")]
    options.overrides = [word for word in options.overrides if word not in groups]
    request = arguments.request(options)
    if not groups:
        jobs.like(options.source, request).show(as_json=options.json)
        return EXIT_DONE
    if options.source is not None:
        [first, *_] = jobs.like(options.source, request).runs()
        for group in groups:
            group_options(first, group, as_json=options.json)
        return EXIT_DONE
    pipeline = pipeline_request(request)
    if pipeline is not None and groups == ["method"]:
        pipeline_options(pipeline.pipeline, as_json=options.json)
        return EXIT_DONE
    resolved = described(request)
    for group in groups:
        group_options(resolved, group, as_json=options.json)
    return EXIT_DONE
