"""What is shown of a job, as text or as JSON: its configuration, its plan, its result, its transcripts.

These modules are given values and print them. None composes, reads a run directory that it was not given, or decides.
"""
