"""Pipelines: several ordinary runs in one directory, each fed by what the runs before it made.

`base` declares, `stages` composes one run spec a stage, `directory` remembers what was asked for, `carry_out` runs.
"""
