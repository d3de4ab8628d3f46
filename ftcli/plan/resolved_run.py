"""A run with everything that its spec names looked up; checks, plan and rendering all take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ftcli.core.paths import UNNAMED
from ftcli.data.row_sets import every_set
from ftcli.methods import Method, get_method
from ftcli.methods.method import further_models
from ftcli.models.known_shapes import model_shape
from ftcli.models.shape import Shape
from ftcli.peft_methods import PeftMethod, peft_method
from ftcli.settings.batch_plan import AUTO, SIZE, BatchPlan
from ftcli.settings.run_spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class ResolvedRun:
    """A spec with its declarations and the model's shape."""

    spec: RunSpec
    method: Method
    peft: PeftMethod | None
    """None where the model's own parameters train."""
    shape: Shape | None
    """None where the architecture is unknown or the model is not on this machine."""

    @classmethod
    def of(cls, spec: RunSpec) -> ResolvedRun:
        """A spec read back from a file, with its declarations looked up.

        Raises:
            ConfigError: the model's config.json cannot be read.
        """
        method = get_method(spec.choices["method"])
        return cls(spec=spec, method=method, peft=peft_method(spec.peft), shape=model_shape(spec.model))

    @cached_property
    def batch(self) -> BatchPlan:
        """What makes up one optimiser step."""
        return BatchPlan.of(self.spec.train, self.spec.launch.num_processes)

    @property
    def chooses_batch(self) -> bool:
        """Whether its batch is chosen among those that fit: train.per_device_train_batch_size=auto."""
        train = self.spec.tree.get("train")
        return isinstance(train, Mapping) and train.get(SIZE) == AUTO

    @cached_property
    def unnamed(self) -> dict[str, str]:
        """The settings whose model or rows are still to be named, each with the word for what it takes."""
        spec = self.spec
        rows = {each.key: each.settings.path for each in every_set(spec.data, self.method)}
        rows = {key: [path] if isinstance(path, str) else path for key, path in rows.items()}
        models = {f"method.{key}": name for key, name, _ in further_models(spec.method)}
        models = {"model.name_or_path": spec.model.name_or_path, **models}
        found = {key: "MODEL" for key, name in models.items() if name == UNNAMED}
        return {**found, **{key: "FILE" for key, paths in rows.items() if UNNAMED in paths}}

    @property
    def trains_adapter(self) -> bool:
        """Whether an adapter trains and the base is frozen."""
        return self.peft is not None and self.peft.adapter
