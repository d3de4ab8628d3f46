"""The spec of a synthesis stage: make.json defines the stage completely, as spec.json does a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.settings.backends import BackendSettings

FILE = "make.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class SynthesisSpec:
    """One synthesis stage, resolved and checked."""

    task: str
    """generate, judge or revise."""
    seed: int
    dir: str
    rows: str
    """File, folder, hub id or built-in set with prompts (generate), or the data.jsonl of another stage."""
    role: str
    """The backend's role: generator or judge."""
    backend: BackendSettings
    settings: Mapping[str, Any]
    """Fields of the task's settings."""
    max_rows: int | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """As the text of make.json."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def differences(self, other: SynthesisSpec) -> list[str]:
        """Names of the settings in which two specs of one stage differ, wherever their pipelines' folders are."""
        ours, theirs = self._placeless(), other._placeless()
        return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))

    def _placeless(self) -> dict[str, Any]:
        """Every value by its dotted name, with paths inside the pipeline's folder made relative to it."""
        values = {name: value for name, value in asdict(self).items() if name != "dir"}
        for group in ("backend", "settings", "choices"):
            values |= {f"{group}.{name}": value for name, value in values.pop(group).items()}
        for name in ("rows", "backend.model"):
            values[name] = str(values[name]).removeprefix(f"{Path(self.dir).parent}/")
        return values

    @classmethod
    def load(cls, path: Path) -> SynthesisSpec:
        """Read make.json.

        Raises:
            ConfigError: it is damaged, or of an unknown schema.
        """
        try:
            raw = foreign_files.read_json(path)
            if raw.get("schema") != SCHEMA:
                raise ValueError
            backend = BackendSettings(**raw.pop("backend"))
            raw.pop("grants", None)  # written by older versions; only the command line can grant
            spec = cls(**{**raw, "backend": backend})
            if not (isinstance(spec.settings, dict) and isinstance(spec.choices, dict) and isinstance(spec.dir, str)):
                raise ValueError
            return spec
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ConfigError(Problem(str(path), "is damaged", "start a new pipeline")) from None
