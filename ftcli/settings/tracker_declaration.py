"""What a tracker declares about itself, and what its writer is given and gives: a built-in one, or a plugin's.

A tracker keeps the curve of a run in a form that a tool of its own draws. The class that writes it is named as text, so
that a declaration costs no import; it is made in the first process of a run, in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ftcli.settings.fields.field_row import FieldRow, read


@dataclass(frozen=True, kw_only=True)
class TrackerSetting:
    """One setting of a tracker, `run.tracking.NAME.SETTING`; null is the default."""

    text: str
    """What it says, in a sentence."""
    type: type = str
    """The type of its values: str, bool, int or float."""
    default: Any = None
    """What the writer is given where it is not set."""
    choices: tuple[str, ...] = ()
    """The words that it takes, where text is not free."""
    grant: str = ""
    """The flag that a file needs to set it, for a setting by which something is sent elsewhere."""
    harmless: tuple[str, ...] = ()
    """The words of a setting with a grant that send nothing, and so need none."""
    address: bool = False
    """Whether it is a web address."""
    needs: str = ""
    """A setting of the same tracker without which it has no effect: NAME=VALUE, or NAME=* for any value."""

    @property
    def row(self) -> FieldRow:
        """What it reaches, for the table of fields."""
        return (
            read("sends", free="a name or an address", grant=self.grant, harmless=self.harmless)
            if self.grant
            else read()
        )


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """One word of `run.trackers`."""

    name: str
    summary: str
    """One line that says what is kept and where."""
    package: str
    """The package that it needs, by the name that it is imported by; "" for none."""
    remedy: str = ""
    """How that is installed, as a command."""
    writer: str
    """The class `module:Class` that writes (the protocol is `Writer`)."""
    shown_by: str = ""
    """The command that shows what it kept, for the folder `RUN`."""
    settings: Mapping[str, TrackerSetting] = field(default_factory=dict)

    def given(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Every setting with its value, the default where it has none."""
        values = {name: settings.get(name) for name in self.settings}
        return {name: each.default if values[name] is None else values[name] for name, each in self.settings.items()}

    def sends(self, settings: Mapping[str, Any]) -> bool:
        """Whether what it keeps leaves this machine, by these settings."""
        values = self.given(settings)
        return any(
            each.grant and values[name] not in (None, False, *each.harmless) for name, each in self.settings.items()
        )


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What the writer of a tracker is told of the run."""

    folder: Path
    """RUN/trackers/NAME: all that it writes lies in it. It is empty, unless the tracker sends to somewhere else."""
    name: str
    """The run's name and its folder's, which by itself is the time at which it began."""
    id: str
    """Sixteen hexadecimal digits, the same in every resume of the run and of no other run."""
    config: Mapping[str, Any]
    """The resolved settings of the run by group, the choices, the seed, and the version of ftcli."""
    ledger: str
    """The SHA-256 of ledger.json: what became of every row."""
    step: int = 0
    """The step from which a resumed run goes on; 0 for a run that begins."""


class Writer(Protocol):
    """What `Tracker.writer` names. It may raise: the run is told once, and goes on without the tracker."""

    logged: int
    """The last step that was kept elsewhere before a resume, which is not logged again; -1 where there is none. What
    lies in the run's folder is written anew, from the first step."""

    def __init__(self, run: TrackedRun, settings: Mapping[str, Any]) -> None:
        """Open it, and keep the run's name, configuration and ledger digest.

        Args:
            settings: every declared setting, with its default where it is not set.
        """

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        """Keep one line of metrics.jsonl: finite numbers by name. Steps never fall, and a name occurs once in a step.

        Args:
            seconds: when the line was written, in seconds since 1970.
        """

    def close(self) -> None:
        """Write what is left."""
