"""Pipelines: several ordinary runs in one directory, each using the models and rows of the stages before it.

`pipeline_request` parses a request, `stage_specs` composes one spec per stage (`stages`), `pipeline_dir` stores the
request, `stage_loop` runs the stages.
"""
