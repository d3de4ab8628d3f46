"""Serving a run, and what is served: the addresses and files of other programs, compared with what was trained."""
