"""The attention kernel that a run measured and took, as its directory keeps it.

A resumed run must compute as it began, and a second measurement could come out otherwise, so whatever starts from the
run reads what it took then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir
from ftcli.settings.ownership import ATTENTION
from ftcli.settings.run_spec import Note, RunSpec

SETTING = "model.attn_implementation"


@dataclass(frozen=True, kw_only=True)
class AttentionChoice:
    """The kernel that a run took, and what it was compared with."""

    kernel: str
    why: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """Of each kernel: the forward and backward pass of all layers over the rows of one pass, as it was measured."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Kernels that could not be taken, and why."""

    @property
    def text(self) -> str:
        """One line for the run's log and its notes."""
        timed = ", ".join(f"{name} {value:.3g} ms" for name, value in self.milliseconds.items())
        without = "; ".join(f"{name} left out: {why}" for name, why in self.left_out.items())
        return "; ".join(filter(None, [f"{self.why}: {timed}" if timed else self.why, without]))


def recorded(run: Path) -> AttentionChoice | None:
    """What a run took; None where it measured nothing.

    Raises:
        ConfigError: the file is damaged, or names code of somebody else.
    """
    path = run / rundir.ATTENTION
    try:
        found = foreign_files.read_json(path)
        choice = AttentionChoice(**found)
        sound = choice.kernel in ATTENTION and bool(choice.text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError):
        sound = False
    if not sound:
        fix = f"start a new run with ftcli train --from {shell_word(run)} {SETTING}=KERNEL"
        raise ConfigError(Problem(str(path), "is damaged, so the kernel that the run took is not known", fix))
    return choice


def record(run: Path, choice: AttentionChoice) -> None:
    """Keep what a run took."""
    rundir.write_json(run / rundir.ATTENTION, asdict(choice))


def as_measured(spec: RunSpec, run: Path) -> RunSpec:
    """The spec of a run with the kernel that the run measured and took, if it did.

    Raises:
        ConfigError: as `recorded`.
    """
    choice = recorded(run) if spec.attention_candidates else None
    return spec if choice is None else with_choice(spec, choice)


def with_choice(spec: RunSpec, choice: AttentionChoice) -> RunSpec:
    """The spec with this kernel, which nothing measures again, and with the note that says so."""
    notes: list[Any] = [note for note in spec.notes if note.key != SETTING]
    return replace(
        spec,
        model=replace(spec.model, attn_implementation=choice.kernel),
        attention_candidates=(),
        notes=(*notes, Note(SETTING, choice.kernel, choice.text)),
    )
