"""What each shipped model takes, in five ways to train: `ftcli plan`, for the table in docs/models.md.

    python benchmarks/model_needs.py --save

Nothing is downloaded and nothing is trained. An architecture that is in no table is measured first, by a worker and
once, from the configuration in the model's file. Without --save the figures are printed. The digest of each model's
file is kept beside its figures: a test finds those that are out of date.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from benchmarks.common import save, versions
from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.core import assets
from ftcli.core.errors import ConfigError
from ftcli.core.paths import is_builtin
from ftcli.core.strict_yaml import load
from ftcli.models.known_shapes import model_shape
from ftcli.models.packing_support import why_unpacked
from ftcli.models.parameters import num_parameters
from ftcli.plan.measure import measure
from ftcli.plan.outlook import plan
from ftcli.settings.groups import ModelSettings

SMALLEST = ("train.gradient_checkpointing=true", "data.max_length_tokens=2048")
_ROW = "train.per_device_train_batch_size=1"
_GROUP = ("method.rewards={length: 1}", "method.num_generations=8", "train.per_device_train_batch_size=8")
WAYS = {
    "LoRA": ("method=sft", "peft=lora", _ROW),
    "QLoRA": ("method=sft", "peft=qlora", _ROW),
    "all weights": ("method=sft", "peft=none", _ROW),
    "DPO, LoRA": ("method=dpo", "peft=lora", _ROW),
    "GRPO, LoRA": ("method=grpo", "peft=lora", *_GROUP, "method.max_completion_length=512"),
}
"""What is planned of each model, as it is typed, beside SMALLEST."""
LARGE = "hardware.gpu=100000GiB"
"""A card on which every model is planned; none is needed."""


def models() -> dict[str, ModelSettings]:
    """The shipped models of the hub, by the name that is typed; a base needs what the model made of it does."""
    found = {name: ModelSettings(**load(path).data) for name, path in assets.choices("model").items()}
    made = {name for name in found if name.removesuffix("-base") in found and name.endswith("-base")}
    return {name: model for name, model in found.items() if name not in made and not is_builtin(model.name_or_path)}


def digest(name: str) -> str:
    """That of a model's file."""
    return sha256(assets.choices("model")[name].read_bytes()).hexdigest()


def words(name: str, way: str) -> tuple[str, ...]:
    """What is planned, as it is typed."""
    return (*WAYS[way], *SMALLEST, f"model={name}", LARGE)


def needs(name: str) -> dict[str, Any]:
    """The figures of one model: in GiB what one process needs in each way, or why it cannot be trained so."""
    model = models()[name]
    shape = model_shape(model)
    found = dict[str, Any]()
    for way in WAYS:
        try:
            memory = plan(run_of(Request(overrides=words(name, way)))).memory
            found[way] = round(memory.total_gib, 1) if memory else "the plan does not know its modules"
        except ConfigError as error:
            found[way] = error.problems[0].what
    return {
        "name": name,
        "digest": digest(name),
        "parameters": num_parameters(shape) if shape else None,
        "context": shape.max_position_embeddings if shape else None,
        "packs": why_unpacked(shape, model.attn_implementation, {}) is None,
        "gib": found,
    }


def all_needs() -> Iterator[dict[str, Any]]:
    """The figures of every model, once the architectures in no table are measured."""
    measure([run_of(Request(overrides=words(name, "LoRA"))).spec for name in models()], print)
    for name in models():
        yield needs(name)


def main() -> None:
    """Plan every shipped model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/model_needs.json")
    options = parser.parse_args()
    found = []
    for each in all_needs():
        print(json.dumps(each), flush=True)
        found.append(each)
    if options.save:
        typed = {way: " ".join((*own, *SMALLEST)) for way, own in WAYS.items()}
        save("model_needs", {"schema": 1, "ways": typed, "models": found, "versions": versions()})


if __name__ == "__main__":
    main()
