"""The training methods and the pipelines made of them: one file each, declared, never branched on.

A module in this folder that defines `METHOD` is a method, one that defines `PIPELINE` a pipeline of stages; nothing
else registers them.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from ftcli.methods.method import Method
from ftcli.methods.pipeline import Pipeline

__all__ = ["Method", "Pipeline", "all_methods", "all_pipelines", "get_method"]


def get_method(name: str) -> Method:
    """The declaration of method `name` (a name of `configs/method`)."""
    method: Method = importlib.import_module(f"ftcli.methods.{name}").METHOD
    return method


@cache
def _declared(kind: str) -> dict[str, Any]:
    """What the modules of this folder define under a name, in the order of the alphabet."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"ftcli.methods.{name}") for name in names}
    return {name: getattr(module, kind) for name, module in modules.items() if hasattr(module, kind)}


def all_methods() -> dict[str, Method]:
    """Every declared method by name."""
    return _declared("METHOD")


def all_pipelines() -> dict[str, Pipeline]:
    """Every declared pipeline by name; each is a choice of `method=` too."""
    return _declared("PIPELINE")
