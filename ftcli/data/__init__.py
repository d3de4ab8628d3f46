"""Rows from files and what they mean; no heavy imports, so that a configuration check can read data."""
