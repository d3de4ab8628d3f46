"""The run spec: the frozen values of a run, and their JSON form on disk.

`spec.json` is the whole truth of a run: the same file starts, resumes and reproduces it. It holds plain data only and
is never interpolated again. `tree` holds the settings as the user and the group files give them; the groups hold them
resolved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.settings.groups import (
    HALF_PRECISION,
    DataSettings,
    HardwareSettings,
    ModelSettings,
    QuantisationSettings,
    RunSettings,
)
from ftcli.settings.sharding import shards_weights

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Note:
    """A derived value: the setting, the value and the reason."""

    key: str
    value: Any
    why: str


def as_then(data: Mapping[str, Any]) -> dict[str, Any]:
    """The group `data` of a stored run; one from before `data.template` existed read its text bare, and still does."""
    if "template" in data:
        return dict(data)
    mix = data.get("mix")
    if not isinstance(mix, dict):
        return {**data, "template": "none"}
    sets = {name: {"template": "none", **own} if isinstance(own, dict) else own for name, own in mix.items()}
    # Beside a mix the group's own settings are those of the rows in data.eval_path.
    return {**data, "mix": sets, "template": "none" if data.get("eval_path") else "auto"}


_GROUPS = ("run", "model", "data", "quantisation", "hardware", "method", "peft", "train")


def _malformed(raw: Mapping[str, Any]) -> str:
    """The first part of a stored spec that has not the form that `to_json` writes; "" where all have.

    The folder of a run may come from anyone. Values inside the groups are checked by who acts on them.
    """
    for name in (*_GROUPS, "launch", "choices"):
        if not isinstance(raw[name], dict):
            return name
    if not all(isinstance(choice, str) for choice in raw["choices"].values()):
        return "choices"
    tree = raw.get("tree", {})
    if not isinstance(tree, dict) or not all(isinstance(tree.get(group, {}), dict) for group in _GROUPS):
        return "tree"
    for name in ("notes", "grants"):
        if not isinstance(raw[name], list):
            return name
    if not all(isinstance(note, dict) and isinstance(note.get("key"), str) for note in raw["notes"]):
        return "notes"
    if not all(isinstance(note.get("why"), str) for note in raw["notes"]):
        return "notes"
    if not all(isinstance(flag, str) for flag in raw["grants"]):
        return "grants"
    plugins = raw.get("plugins", {})
    if not isinstance(plugins, dict) or not all(isinstance(each, str) for each in plugins.values()):
        return "plugins"
    return "" if isinstance(raw.get("warmup_from_zero", False), bool) else "warmup_from_zero"


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """How the worker is started; decided by `plan`, run by `launch`."""

    num_processes: int = 1
    device: str = "cpu"
    """cpu or cuda."""
    gpu: str | None = None
    """The card that the run is planned for (`hardware.gpu`); None: those of this machine."""
    num_nodes: int = 1
    """Machines among which the processes are divided evenly."""
    max_restarts: int = 0
    """How often the launcher may start all processes again when one is lost."""
    num_threads: int | None = None
    """Intra-operation threads of each process; part of the spec since sums depend on it bit for bit."""

    @property
    def processes_per_node(self) -> int:
        """Processes on each machine."""
        return self.num_processes // self.num_nodes


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training run, resolved and checked. `method`, `peft` and `train` hold fields of the library configs."""

    choices: Mapping[str, str]
    seed: int
    run: RunSettings
    model: ModelSettings
    data: DataSettings
    quantisation: QuantisationSettings
    hardware: HardwareSettings
    method: Mapping[str, Any]
    """`name` and the options and trainer-config fields that were set."""
    peft: Mapping[str, Any]
    """`name` and the fields of its PEFT config that were set; name `none` is full fine-tuning."""
    train: Mapping[str, Any]
    """TrainingArguments fields that were set or derived."""
    launch: LaunchPlan = field(default_factory=LaunchPlan)
    attention_candidates: tuple[str, ...] = ()
    """Attention kernels of which the worker takes the fastest, model.attn_implementation first; () takes that one."""
    notes: tuple[Note, ...] = ()
    grants: tuple[str, ...] = ()
    """Flags under which the command line started it: given, or needed by what was typed. Read from a file they grant
    nothing."""
    plugins: Mapping[str, str] = field(default_factory=dict)
    """The plugins that it was composed with, by name: of a folder the digest of its files, of a package its version."""
    tree: Mapping[str, Any] = field(default_factory=dict)
    warmup_from_zero: bool = False
    """Whether the first step of a warm-up has the rate 0, as in runs of ftcli 0.1, which resume as they began."""
    schema: int = SCHEMA_VERSION

    @property
    def holds_masters(self) -> bool:
        """Whether what trains is held in float32 and computed in a half-precision type, which all else is held in.

        DeepSpeed keeps such copies by itself. In bfloat16 alone most updates are smaller than half a step between two
        numbers, and are lost: at a learning rate of 1e-6 one weight in fifty moves in a hundred steps.
        """
        mixed = self.train.get("bf16") or self.train.get("fp16")
        return bool(mixed) and self.model.dtype in HALF_PRECISION and not self.train.get("deepspeed")

    @property
    def shard_dtype(self) -> str | None:
        """The type as which the bytes of 4-bit weights are held so that they are sharded with the others; None where
        weights are not sharded.

        FSDP shards floating-point tensors only, and what shards casts them to the type that it computes in: held as
        that one, the bytes stay what they are.
        """
        return self.compute_dtype if shards_weights(self.train) else None

    @property
    def compute_dtype(self) -> str:
        """The type that the model computes in."""
        return "bfloat16" if self.train.get("bf16") else "float16" if self.train.get("fp16") else self.model.dtype

    def to_json(self) -> str:
        """This spec as the text of `spec.json`."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "spec.json") -> RunSpec:
        """The spec written by `to_json`.

        Raises:
            ConfigError: not JSON, or of a schema version that this ftcli does not know.
        """
        try:
            raw = json.loads(text)
            if raw.get("schema") != SCHEMA_VERSION:
                version = raw.get("schema")
                what = f"has schema version {version}; this ftcli reads {SCHEMA_VERSION}"
                raise ConfigError(Problem(where, what, "use the ftcli version named in the run's environment.json"))
            if "\\u0000" in text:  # which no name of a file can have
                raise TypeError("it holds a NUL character")
            if odd := _malformed(raw):
                raise TypeError(f"{odd} has another form")
            nested = {
                "run": RunSettings,
                "model": ModelSettings,
                "data": DataSettings,
                "quantisation": QuantisationSettings,
                "hardware": HardwareSettings,
                "launch": LaunchPlan,
            }
            values = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
            values["data"] = as_then(values["data"])
            if "data" in values.get("tree", {}):
                values["tree"] = {**values["tree"], "data": as_then(values["tree"]["data"])}
            for name, kind in nested.items():
                values[name] = kind(**values[name])
            values["notes"] = tuple(Note(**note) for note in values["notes"])
            values["grants"] = tuple(values["grants"])
            values["attention_candidates"] = tuple(values.get("attention_candidates", ()))
            values.setdefault("warmup_from_zero", True)
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(Problem(where, f"is not a run spec: {error}", "start a new run")) from None

    @classmethod
    def load(cls, path: Path) -> RunSpec:
        """The spec stored at `path`.

        Raises:
            ConfigError: missing, unreadable or of another schema.
        """
        try:
            text = foreign_files.read_text(path)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(Problem(str(path), f"cannot be read: {why}", "name a run directory")) from None
        return cls.from_json(text, str(path))


@dataclass
class Notes:
    """Collects the derived values for the spec."""

    found: list[Note] = field(default_factory=list)

    def add(self, key: str, value: Any, why: str) -> Any:
        """Record a derived value and return it."""
        self.found.append(Note(key, value, why))
        return value
