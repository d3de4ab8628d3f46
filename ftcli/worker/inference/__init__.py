"""Answers, scores and metrics of a model that does not train."""
