"""Advice on a method: what is seen in the rows, rules with sources as tables, and the ways that are planned and fit."""
