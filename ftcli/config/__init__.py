"""Overrides, recipe and groups → one tree in which each value knows its origin. The only room that imports Hydra."""
