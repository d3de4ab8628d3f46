"""Bytes → rows with their places: locating, opening and reading files, folders, URLs and hub data sets."""
