"""Merging trained adapters into their base: the result is one plain model that any tool can load.

All sums are made in float32 and rounded once, when the result is written. The base is the one that is stored, or the
one that a quantised run saw, turned back into plain weights; it is never rounded to 4 bits again, which would change
the answers.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from ftcli.core.errors import ConfigError, Problem
from ftcli.models.export.combining import Combination
from ftcli.models.sources import adapter_declares, base_of, foundation_of, head_of, resolved_source, rows_of_adapters
from ftcli.models.stored_files import FLOAT_TYPES, read_header
from ftcli.models.stored_quantisation import stored_quantisation
from ftcli.peft_methods import why_unmerged
from ftcli.runs.checkpoints import publish, staging_path, write_manifest
from ftcli.runs.model_card import CARD
from ftcli.settings.groups import ModelSettings, QuantisationSettings
from ftcli.worker.models.load import UNQUANTISED, load_model, load_trained, with_adapter
from ftcli.worker.process.free_space import require_room

SHARD = "5GB"
"""Larger models are written in several files."""
SERVE = "serve the base with the adapter on it"
_TYPES = {"F64": torch.float32, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_COMBINED = "combined"


@dataclass(frozen=True)
class Merge:
    """What is merged into what."""

    folders: Sequence[Path]
    """Of the adapters, the first one's first."""
    dequantised: bool = False
    """Whether the base is the one that a quantised run saw, instead of the one that is stored."""
    quantisations: Sequence[QuantisationSettings] = (UNQUANTISED,)
    """With which each adapter was trained."""
    combination: Combination | None = None
    trust_remote_code: bool = False

    @property
    def settings(self) -> ModelSettings:
        """Of the first adapter's model, in the type in which it is merged."""
        return self.settings_of(self.folders[0])

    def settings_of(self, folder: Path) -> ModelSettings:
        """Of one adapter's model."""
        return ModelSettings(name_or_path=str(folder), dtype="float32", trust_remote_code=self.trust_remote_code)

    @property
    def saw_quantised(self) -> bool:
        """Whether the adapters were trained on a base that was quantised."""
        return any(each.type != "none" for each in self.quantisations) or _stored_quantised(self.folders[0])


def require_mergeable(work: Merge) -> None:
    """Check that adapters can be merged, before anything is loaded.

    Raises:
        ConfigError: they cannot.
    """
    for folder in work.folders:
        if reason := why_unmerged(str(adapter_declares(folder).get("peft_type"))):
            raise ConfigError(Problem(str(folder), f"cannot be merged: {reason}", SERVE))
    first = work.folders[0]
    stored = stored_quantisation(ModelSettings(name_or_path=str(first)))
    if stored is not None and stored.stays and not (work.dequantised and stored.name == "bitsandbytes"):
        what = f"its base is stored quantised ({stored.name}), and rounding the merged weights again changes answers"
        fix = "merge it into the plain weights that these stand for, with --base dequantised"
        raise ConfigError(Problem(str(first), what, fix if stored.name == "bitsandbytes" else SERVE))
    if work.dequantised and not work.saw_quantised:
        what = "was not trained on a quantised base, so there is none to dequantise"
        raise ConfigError(Problem(str(first), what, "leave --base out"))
    if work.dequantised and len(set(work.quantisations)) > 1:
        what = "the adapters were trained on differently quantised bases, so no one of them can be dequantised for all"
        raise ConfigError(Problem(str(first), what, "merge them into the stored base: leave --base out"))
    if len(work.folders) > 1:
        _require_alike(work.folders)


def _require_alike(folders: Sequence[Path]) -> None:
    """Check that PEFT can combine adapters: plain LoRA on one base."""
    problems, bases = [], {}
    for folder in folders:
        declared = adapter_declares(folder)
        bases[folder] = resolved_source(base_of(folder)).location
        if declared.get("peft_type") != "LORA" or declared.get("use_dora"):
            kind = "DORA" if declared.get("use_dora") else declared.get("peft_type")
            what = f"is a {kind} adapter, and PEFT combines plain LoRA adapters alone"
            problems.append(Problem(str(folder), what, "merge it alone"))
        source = resolved_source(str(folder))
        if declared.get("modules_to_save") or declared.get("target_parameters") or rows_of_adapters(source):
            what = "trained more than LoRA on layers (whole modules, parameters or tokens), which PEFT does not combine"
            problems.append(Problem(str(folder), what, "merge it alone"))
    if len(set(bases.values())) > 1:
        named = ", ".join(sorted(set(bases.values())))
        problems.append(Problem(str(folders[0]), f"the adapters have different bases: {named}", "name those of one"))
    if problems:
        raise ConfigError(*problems)


def _stored_quantised(folder: Path) -> bool:
    stored = stored_quantisation(ModelSettings(name_or_path=str(folder)))
    return stored is not None and stored.stays


def as_trained(work: Merge, index: int) -> Any:
    """The model of one adapter as it was trained: on its base, quantised if that was."""
    folder = work.folders[index]
    how: dict[str, Any] = {"head": head_of(folder), "quantisation": work.quantisations[index]}
    return load_trained(work.settings_of(folder), seed=0, device="cpu", **how)


def on_base(work: Merge) -> Any:
    """A PeftModel of the base in float32 with all adapters on it, called `name_of` each, the first one active.

    Raises:
        ConfigError: one cannot be loaded.
    """
    first = work.folders[0]
    base_name, revision = base_of(first), adapter_declares(first).get("revision")
    below = replace(work.settings, name_or_path=base_name, revision=revision)
    how: dict[str, Any] = {"quantisation": work.quantisations[0]} if work.dequantised else {}
    base = load_model(below, seed=0, device="cpu", head=head_of(first), **how)
    if work.dequantised:
        base = base.dequantize(torch.float32)
    base = base.float()
    base.is_quantized = work.dequantised  # in its values: what LoftQ left out of them stays out
    model = with_adapter(base, first, name_of(0))
    base.is_quantized = False
    for index, folder in enumerate(work.folders[1:], 1):
        _add(model, folder, name_of(index))
    return model.eval()


def name_of(index: int) -> str:
    """What an adapter is called in the model that holds all."""
    return f"adapter_{index}"


def _add(model: Any, folder: Path, name: str) -> None:
    from peft.utils.save_and_load import load_peft_weights

    from ftcli.worker.tuners.adapter_tensors import complete

    model.load_adapter(str(folder), adapter_name=name)
    complete(model, load_peft_weights(str(folder), device="cpu"), name, str(folder))


def merged_plain(work: Merge, model: Any) -> Any:
    """The plain model that `on_base`'s becomes when its adapters are merged, in float32.

    Raises:
        ConfigError: they cannot be combined or merged.
    """
    from ftcli.worker.tuners.adapter_tensors import merged

    if work.combination is not None:
        chosen = work.combination
        torch.manual_seed(0)  # DARE drops at random
        names = [name_of(index) for index in range(len(work.folders))]
        try:
            model.add_weighted_adapter(
                names, list(chosen.weights), _COMBINED, combination_type=chosen.in_peft, density=chosen.density
            )
        except ValueError as error:
            what = f"cannot be combined: {str(error).strip().splitlines()[0]}"
            raise ConfigError(Problem(str(work.folders[0]), what, "combine them by --how linear")) from None
        model.set_adapter(_COMBINED)
    plain = merged(model, str(work.folders[0]), SERVE, safe_merge=True)
    plain._hf_peft_config_loaded = False
    return plain


def stored_dtype(settings: ModelSettings) -> torch.dtype:
    """The type in which the model at the bottom of a stack of adapters is stored."""
    bottom = foundation_of(settings.name_or_path)
    config = AutoConfig.from_pretrained(bottom.location, trust_remote_code=settings.trust_remote_code)
    declared = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    if isinstance(declared, torch.dtype):
        return declared
    for file in sorted(bottom.folder.glob("*.safetensors")) if bottom.folder else ():
        header, _ = read_header(file)
        types = [each["dtype"] for name, each in header.items() if name != "__metadata__"]
        if own := [each for each in types if each in FLOAT_TYPES]:
            return _TYPES[own[0]]
    return torch.float32


def write(plain: Any, tokenizer: Any, staging: Path, dtype: torch.dtype, card: str = "") -> None:
    """Write a model, rounded to `dtype`, with its tokenizer and card into a folder that is not published yet.

    Raises:
        DiskError: the disk has no room for it.
    """
    size = sum(each.numel() for each in plain.parameters()) * dtype.itemsize
    require_room(staging.parent, size, f"the model in {str(dtype).removeprefix('torch.')}")
    plain.to(dtype).save_pretrained(staging, max_shard_size=SHARD)
    tokenizer.save_pretrained(staging)
    if card:
        (staging / CARD).write_text(card, encoding="utf-8")


class Staged:
    """A folder that is written aside and appears under its name whole, or not at all."""

    def __init__(self, target: Path) -> None:
        self.target, self.folder = target, staging_path(target.parent, target.name)

    def __enter__(self) -> Staged:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self

    def publish(self) -> None:
        """Seal what was written and give it its name."""
        write_manifest(self.folder)
        publish(self.folder, self.target)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # where it was not published, as where the disk is full
