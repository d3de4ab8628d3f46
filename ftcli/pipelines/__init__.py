"""Pipelines: several ordinary runs in one directory, each fed by what the runs before it made.

`pipeline_request` takes a request apart, `stage_specs` composes one spec a stage (`stages`), `pipeline_dir` remembers
what was asked for, `stage_loop` runs.
"""
