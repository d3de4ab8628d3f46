"""Synthesis: training data from models (answers, preferences, revisions), written item by item so that it can resume.

`tasks` builds the questions and turns replies into rows, `journal` stores finished items, `runner` processes the items,
and a backend answers: a local model or vLLM (worker/inference), an endpoint, or rules.
"""
