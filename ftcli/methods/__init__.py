"""The training methods and the pipelines: one declaration file each. No other code branches on a method's name.

A module in this folder that defines `METHOD` declares a method, one that defines `PIPELINE` a pipeline of stages; they
are registered nowhere else.
"""

from __future__ import annotations

from functools import cache

from ftcli.core.declarations import declaration, declarations
from ftcli.methods.method import Method
from ftcli.methods.pipeline import Pipeline

__all__ = ["Method", "Pipeline", "all_methods", "all_pipelines", "get_method"]


def get_method(name: str) -> Method:
    """The declaration of method `name` (a name of `configs/method`)."""
    method: Method = declaration(__name__, name, "METHOD")
    return method


@cache
def all_methods() -> dict[str, Method]:
    """Every declared method by name."""
    return declarations(__name__, "METHOD")


@cache
def all_pipelines() -> dict[str, Pipeline]:
    """Every declared pipeline by name; each is a choice of `method=` too."""
    return declarations(__name__, "PIPELINE")
