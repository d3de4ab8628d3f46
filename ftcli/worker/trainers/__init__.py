"""Trainers of our own, where the stack has none that stays: built on its stable ones, for the worker half alone."""
