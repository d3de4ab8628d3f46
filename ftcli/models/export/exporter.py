"""What a format to export to is, as each module of ftcli/models/exporters declares one, and what they share."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.hub_cache import cached_snapshot, hub_cache
from ftcli.core.text import shell_word
from ftcli.models import sources
from ftcli.models.export.former_names import add_former_names
from ftcli.models.export.vllm_adapters import Servable, servable_adapter
from ftcli.models.stored_files import stored_parameters
from ftcli.models.templates.chat_template import end_tokens
from ftcli.runs import rundir
from ftcli.runs.checkpoints import MANIFEST

_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py", "README.md")
_STAMP = re.compile(r"\d{8}-\d{6}")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@dataclass(frozen=True)
class Trained:
    """A trained model that is to be exported."""

    name: str
    """As it was typed."""
    title: str
    """For files and servers: of letters, digits, dots and dashes."""
    folder: Path
    is_adapter: bool = False
    below: Sequence[Path] = ()
    """The folders of the models below an adapter, as far as they are on this machine, the nearest first."""

    def verified_at(self, place: str | Path, *more: str) -> Sequence[str]:
        """The command that compares what was written, or what serves it, with the run; none for what is no run."""
        words = ["ftcli", "verify", shell_word(self.name), "--at", shell_word(place), *more]
        return (" ".join(words),) if rundir.find_run(self.name) is not None else ()

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer that it was trained with."""
        have = (each for each in (self.folder, *self.below) if any((each / name).is_file() for name in _TOKENIZER))
        return next(have, self.folder)

    @property
    def foundation(self) -> Path:
        """The folder of the whole model at the bottom."""
        return self.below[-1] if self.below else self.folder

    @property
    def ends(self) -> list[str]:
        """The tokens that end its answers, as it was trained."""
        return next((found for each in (self.folder, *self.below) if (found := end_tokens(each))), [])

    @property
    def parameters(self) -> int | None:
        """Of the whole model; None where its files do not tell."""
        return stored_parameters(self.foundation)


@dataclass(frozen=True)
class Place:
    """Where an export is written, and what it is told."""

    into: Path
    """The folder of the export, which has another name until all is written."""
    scratch: Path
    """A folder that goes when the export is done."""
    kind: str
    """The type that was chosen, as q8_0; "" where a format has none."""
    where: str
    """The command, for errors."""


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """One format."""

    summary: str
    types: Sequence[str] = ()
    """The types of weights to choose from, the default first; () where the model's own are kept."""
    merges: Callable[[Trained], bool] = lambda trained: trained.is_adapter
    """Whether an adapter is merged first."""
    exact: bool = False
    """Whether it is merged into float32, as what follows rounds by itself."""
    check: Callable[[Trained, str, str], None] = lambda trained, kind, where: None
    """Raises ConfigError, before anything is written, where it cannot be written: of a model, a type, the command."""
    write: Callable[[Trained, Path, Place], Sequence[str]]
    """Writes a plain model's folder, or an adapter's, and returns what a user must know of it."""
    next_lines: Callable[[Trained, Path, str], Sequence[str]]
    """The commands that serve what was written: of a model, the folder, the type."""
    bytes_a_weight: Callable[[str], float] = lambda kind: 4.0
    """What a weight of the whole model takes on the disk while a type is written, a merged one beside it aside."""


def trained_model(name: str, where: str) -> Trained:
    """The model that a word names.

    Raises:
        ConfigError: it holds no model, or one that is not on this machine.
    """
    source = sources.model_source(name)
    if source is None:
        raise ConfigError(Problem(where, f"{name} holds no model", "name a finished run, or a model folder"))
    folder = _on_disk(source)
    if folder is None:
        raise ConfigError(Problem(where, f"{source.hub_id} is not on this machine", "download it first"))
    below, at = list[Path](), source
    while at.is_adapter and at.folder is not None and len(below) < 64:
        lower = sources.model_source(sources.base_of(at.folder))
        place = _on_disk(lower, sources.adapter_declares(at.folder).get("revision")) if lower else None
        if lower is None or place is None:
            what = f"its base {sources.base_of(at.folder)} is not on this machine"
            raise ConfigError(Problem(where, what, "download it first"))
        below.append(place)
        at = lower
    for each in (folder, *below):
        _require_own(each, where)
    if not source.is_adapter and not any(folder.glob("*.safetensors")):
        what = f"{name} has no weights in safetensors files"
        raise ConfigError(Problem(where, what, "save it as safetensors first"))
    return Trained(name, _title(folder), folder, source.is_adapter, below)


def _on_disk(source: sources.ModelSource, revision: str | None = None) -> Path | None:
    return source.folder or cached_snapshot(str(source.hub_id), revision)


def _title(folder: Path) -> str:
    """A name of letters, digits, dots and dashes: of a run its own, of a folder that of the folder."""
    place = folder.parent if folder.name == rundir.MODEL and rundir.is_run(folder.parent) else folder
    words = place.parent.name if _STAMP.match(place.name) else place.name  # runs/NAME/STAMP
    return re.sub(r"[^A-Za-z0-9.-]+", "-", words).strip("-.") or "model"


def _require_own(folder: Path, where: str) -> None:
    """Check that no file of a model is a link that leads out of its folder, but into the hub's cache."""
    inside = (os.path.join(os.path.realpath(folder), ""), os.path.join(os.path.realpath(hub_cache()), ""))
    for file in sorted(each for pattern in _FILES for each in folder.glob(pattern)):
        if not os.path.realpath(file).startswith(inside):
            what = f"{file} is a link that leads out of the model's folder"
            raise ConfigError(Problem(where, what, "put the file itself there"))


def copy_model(folder: Path, into: Path) -> None:
    """Copy the files of a model or an adapter, its tokenizer and card among them."""
    for file in sorted(each for pattern in _FILES for each in folder.glob(pattern)):
        if file.name != MANIFEST and file.is_file():
            shutil.copyfile(file, into / file.name)
    if (folder / "additional_chat_templates").is_dir():
        shutil.copytree(folder / "additional_chat_templates", into / "additional_chat_templates")
    add_former_names(into)


def keep_or_copy(folder: Path, place: Place) -> None:
    """Take the files of a model that was made for this export, or copy those of another."""
    if folder.is_relative_to(place.scratch):
        for file in sorted(folder.iterdir()):
            if file.name != MANIFEST:
                os.replace(file, place.into / file.name)
        add_former_names(place.into)
    else:
        copy_model(folder, place.into)


def served_as_adapter(trained: Trained) -> Servable:
    """Whether vLLM serves an adapter on its base."""
    if not trained.is_adapter:
        return Servable(why_not="it is a full model")
    if len(trained.below) > 1:
        return Servable(why_not="its base has an adapter of its own")
    return servable_adapter(trained.folder)
