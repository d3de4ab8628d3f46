"""Text and JSON output of a job: its configuration, plan, result and transcripts.

These modules print the values that they are given. None composes, decides, or looks for a run directory.
"""
