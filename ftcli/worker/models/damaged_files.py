"""Files of a model that no library can read, named: cut short on their way or on a full disk, or a stranger's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ftcli.core.errors import ConfigError, Problem
from ftcli.models.sources import base_of, model_source
from ftcli.models.stored_files import damaged
from ftcli.settings.groups import ModelSettings

_P = ParamSpec("_P")
_T = TypeVar("_T")
_FIX = "take the model from where it came again; of a run, ftcli verify tells whether its checkpoints are whole"


def naming_damage(load: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have a function that loads from the folder of a model, or from that of its settings, name what is damaged there.

    Libraries fail on such a file in any way that there is. Where no file is damaged, their error is left as it is.
    """

    @wraps(load)
    def named(*args: _P.args, **how: _P.kwargs) -> _T:
        try:
            return load(*args, **how)
        except Exception:
            faults = [fault for folder in _folders(args) for fault in _faults(folder)]
            if not faults:
                raise
            raise ConfigError(*faults) from None

    return named


def _folders(arguments: tuple[Any, ...]) -> Iterator[Path]:
    """The folders that are loaded from: those of adapters, down to the model below them."""
    for each in arguments:
        name = each.name_or_path if isinstance(each, ModelSettings) else each
        while isinstance(name, str | Path):
            source = model_source(str(name))
            if source is None or source.folder is None:
                break
            yield source.folder
            name = None
            with suppress(ConfigError):  # what it names is damaged itself
                name = base_of(source.folder) if source.is_adapter else None


def _faults(folder: Path) -> list[Problem]:
    return [Problem(str(folder), fault, _FIX) for fault in damaged(folder)]


def unloadable(settings: ModelSettings, part: str, error: Exception) -> Problem:
    """Why the model or tokenizer of these settings cannot be loaded, of an error that a library raised."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    if "attention implementation" in reason[0]:
        what = f"{settings.name_or_path} does not run with {settings.attn_implementation} attention"
        return Problem("model.attn_implementation", what, "set model.attn_implementation=eager")
    if "custom code" in reason[0]:
        what = f"{settings.name_or_path} ships Python code, without which its {part} cannot be loaded"
        return Problem("model.name_or_path", what, "read that code, then let it run with --trust-remote-code")
    what = f"the {part} of {settings.name_or_path} cannot be loaded: {reason[0]}"
    return Problem("model.name_or_path", what, "check the name, or download the model first")
