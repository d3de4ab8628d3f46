"""Declarations from outside the package: where plugins are, and how their code is loaded."""
