"""Bytes → rows with their places: finding, opening and reading files, folders, URLs and hub sets."""
