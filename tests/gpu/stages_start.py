"""Stages that come first, since all others build on them: the machine, the models, the first command of a user."""

from __future__ import annotations

import shutil

from tests.gpu.bench import MODELS, Bench, Findings, peak_of

_OPTIONAL = ("bitsandbytes",)
"""Libraries without which only the stages that need them are skipped."""


def doctor(bench: Bench, found: Findings) -> None:
    """Card, driver and libraries, as ftcli sees them."""
    seen = bench.ftcli("doctor", "--json").data()
    found.figures |= {name: value for name, value in seen.items() if not name.startswith("hub_")}
    missing = [name for name, version in seen["libraries"].items() if version is None and name not in _OPTIONAL]
    found.expect(not missing, f"not installed and not among the wheels: {', '.join(missing)}")
    found.expect_on_card(bool(seen["gpus"]), "doctor sees a GPU")
    found.expect(not seen["gpu_unusable"], f"torch cannot use the GPU: {seen['gpu_unusable']}")
    free = shutil.disk_usage(bench.folder).free / 2**30
    found.figures["disk_free_gib"] = round(free, 1)
    found.expect_on_card(free > 40, "40 GiB of disk are free for the models")


def models(bench: Bench, found: Findings) -> None:
    """Random models of 1B, 3B and 8B parameters, written once for all stages."""
    for name, folder in zip(MODELS, bench.models(*MODELS), strict=True):
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        found.figures[name] = {"gib": round(size / 2**30, 2)}
    plan = bench.ftcli("plan", f"model={bench.model('8b')}", "peft=lora", *bench.hardware, "--json").data()
    found.figures["8b"]["parameters"] = plan["parameters"]
    found.expect(plan["parameters"] is not None, "the plan knows the parameters of a local model")
    found.expect_on_card(7e9 < plan["parameters"] < 9e9, "the largest model has 8B parameters")


def demo(bench: Bench, found: Findings) -> None:
    """`ftcli train recipe=demo`: it learns on the card what it learns on a CPU."""
    short = bench.either([], ["train.num_train_epochs=0.2"])
    _, result = bench.train("demo", "recipe=demo", *short)
    score = result["score"]
    found.figures |= {"score": score, "seconds": result["seconds"], "peak_reserved_gib": peak_of(result)}
    found.expect(result["loss_last"] < result["loss_first"], "the loss falls")
    least = bench.either(0.7, 0.0)
    found.expect(score["after"] >= least, f"at least {least} of the held-out answers are right")
