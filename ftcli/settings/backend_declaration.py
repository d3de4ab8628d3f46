"""What a type of backend declares about itself: what it needs, what it may not do unasked, and who it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BackendType:
    """One value of `generator.type` and `judge.type`. The class is a string, so that a declaration costs no import."""

    name: str
    summary: str
    """One line that says who answers."""
    answered_by: str
    """The class `module:Class` that answers (the protocol is ftcli/synthesis/backend.py). It is made of the backend's
    settings, the name of the setting that describes it, for errors, and the grants under which a model is loaded."""
    reads: tuple[str, ...]
    """The settings of a backend that it reads, beside `type`; any other one would have no effect."""
    own_weights: bool = False
    """Whether it loads a model here, which may be one that a pipeline has made by then."""
    endpoint: bool = False
    """Whether it sends rows to an address with a key out of the environment, which a file alone may not ask for."""
    package: str = ""
    """The package that it needs beyond those that ftcli installs."""
    missing: str = ""
    """What is said where that is not installed; `{key}` stands for the setting."""
    remedy: str = ""
    """And what to do about it."""
