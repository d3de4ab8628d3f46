"""Stages about memory: plans beside peaks, measuring within what training takes, and too little of it."""

from __future__ import annotations

import importlib.util
import shutil
import threading
from functools import partial
from typing import Any, NamedTuple

from tests.gpu import rows
from tests.gpu.bench import Bench, Failed, Findings, peak_of
from tests.gpu.memory_watch import watched

RATIOS = (0.90, 1.15)
"""Planned memory as a share of the peak."""
_ROOM = 0.85
"""Share of a card's memory that runs side by side may be planned to take."""
_SLACK = 1.03
"""What pages and pools of another process may add to the same need."""
_STEPS = 3


class Case(NamedTuple):
    """A run whose plan is compared with its peak."""

    model: str
    settings: tuple[str, ...]
    batch: int
    tokens: int
    """Of a row on a card."""


_WHOLE = ("train.gradient_checkpointing=false", "method.packing=false")
_AGAIN = ("train.gradient_checkpointing=true", "method.packing=false")
_DPO = ("method=dpo", "train.gradient_checkpointing=true")
CASES = {
    "1b-full": Case("1b", ("method=sft", "peft=none", *_WHOLE), 4, 2048),
    "1b-full-checkpointed": Case("1b", ("method=sft", "peft=none", *_AGAIN), 8, 2048),
    "1b-lora": Case("1b", ("method=sft", "peft=lora", *_WHOLE), 8, 1024),
    "1b-dpo-full": Case("1b", (*_DPO, "peft=none"), 4, 1024),
    "1b-grpo-lora": Case("1b", ("method=grpo", "peft=lora", "method.num_generations=8"), 8, 256),
    "3b-full-checkpointed": Case("3b", ("method=sft", "peft=none", *_AGAIN), 2, 2048),
    "3b-dpo-lora": Case("3b", (*_DPO, "peft=lora"), 4, 1024),
    "8b-lora": Case("8b", ("method=sft", "peft=lora", *_AGAIN), 8, 2048),
    "8b-lora-packed": Case("8b", ("method=sft", "peft=lora", "method.packing=true", _AGAIN[0]), 1, 8192),
    "8b-qlora": Case("8b", ("method=sft", "peft=qlora", *_AGAIN), 4, 2048),
}
"""Ten runs that differ in what holds their memory."""


def _settings(bench: Bench, case: Case) -> list[str]:
    tokens = bench.either(case.tokens, 64)
    words = [
        *case.settings, *bench.hardware, f"model={bench.model(case.model)}", f"train.max_steps={_STEPS}",
        f"train.per_device_train_batch_size={case.batch}", "train.gradient_accumulation_steps=1",
        "train.logging_steps=1", "train.eval_strategy=no", "train.save_strategy=no", "run.score_rows=0",
    ]  # fmt: skip
    if "method=grpo" in case.settings:
        return [*words, f"method.max_completion_length={tokens}"]
    length = f"data.max_length_tokens={tokens}"
    if "method.packing=true" in case.settings:
        # Many short conversations in each block, as packing is used.
        return [*words, length, f"data.path={rows.conversations(bench.folder, 400, tokens // 4, tokens // 16)}"]
    make = rows.preferences if "method=dpo" in case.settings else rows.conversations
    return [*words, f"data.path={make(bench.folder, 64, tokens)}"]


class _Room:
    """Lets runs start while what all of them are planned to take fits the card."""

    def __init__(self, gib: float) -> None:
        self._gib, self._taken, self._changed = gib, 0.0, threading.Condition()

    def run(self, gib: float, job: Any) -> Any:
        """Run a job when there is room for it, or nothing else runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + gib <= self._gib)
            self._taken += gib
        try:
            return job()
        finally:
            with self._changed:
                self._taken -= gib
                self._changed.notify_all()


def _compared(bench: Bench, room: _Room, name: str) -> dict[str, Any]:
    """Plan and peak of one case; or why there is none."""
    case = CASES[name]
    if "peft=qlora" in case.settings and importlib.util.find_spec("bitsandbytes") is None:
        return {"skipped": "bitsandbytes is not installed"}
    settings = _settings(bench, case)
    try:
        plan = bench.ftcli("plan", *settings, "--json").data()
        total, verdict = plan["memory"]["total_gib"], plan["fit"]
        if verdict and verdict["verdict"] == "does not fit":
            return {"planned_gib": round(total, 2), "skipped": f"does not fit {verdict['card']}"}
        context = plan["memory"]["phases"][plan["memory"]["phase"]].get("cuda_context", 0.0)
        run = bench.run_dir(f"plan-{name}")
        words = [word for word in settings if word not in bench.hardware]
        _, result = room.run(total, partial(bench.train, run.name, *words))
        shutil.rmtree(run)
    except Failed as failed:
        return {"failed": str(failed)}
    reserved, used = peak_of(result), peak_of(result, "peak_allocated_gib")
    # torch counts what it holds itself, which the card's driver and kernels are no part of.
    own = total - context
    return {
        "planned_gib": round(own, 2),
        "peak_reserved_gib": reserved,
        "peak_allocated_gib": used,
        "ratio": round(own / reserved, 3) if reserved else None,
        "ratio_to_allocated": round(own / used, 3) if used else None,
    }


def plans(bench: Bench, found: Findings) -> None:
    """Ten runs: the memory that `ftcli plan` gives them beside the peak that they had."""
    known = bench.ftcli("doctor", "--json").data()["gpus"] if bench.on_card else []
    room = _Room(_ROOM * min((card["memory_gib"] for card in known), default=1.0))
    bench.models("1b", "3b", "8b")
    compared = bench.together([partial(_compared, bench, room, name) for name in CASES])
    found.figures |= dict(zip(CASES, compared, strict=True))
    for name, each in found.figures.items():
        if each.get("failed"):
            found.expect(False, f"{name}: {each['failed']}")
        elif each.get("skipped"):
            found.unjudged.append(f"{name}: {each['skipped']}")
        elif each["ratio"] is None:
            found.expect_on_card(False, f"{name}: the run says its peak")
        else:
            low, high = RATIOS
            found.expect(low <= each["ratio"] <= high, f"{name}: the plan is {each['ratio']} of the peak")


def measuring(bench: Bench, found: Findings) -> None:
    """Evaluating, answering and merging take no more memory than the training did."""
    length = bench.either(1024, 48)
    train, held_out = rows.conversations(bench.folder, 64, length), rows.conversations(bench.folder, 16, length)
    merged = bench.folder / "runs" / "measuring-merged"
    shutil.rmtree(merged, ignore_errors=True)
    model = bench.model("3b")
    with watched(bench.device) as training:
        run, _ = bench.train(
            "measuring", "method=sft", "peft=lora", f"model={model}", f"data.path={train}",
            f"data.eval_path={held_out}", "train.max_steps=3", "train.eval_strategy=no", "run.score_rows=0",
            "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=1",
            "train.gradient_checkpointing=true", "method.packing=false",
        )  # fmt: skip
    found.figures["train_gib"] = round(training.gib, 2)
    commands = {
        "eval": (("eval", str(run), "--rows", "16", "--score-rows", "2", "--json"), ""),
        "chat": (("chat", str(run), "--max-new-tokens", "16"), "What is 2 + 3 in total?\n"),
        "merge": (("merge", str(run), "--to", str(merged), "--json"), ""),
    }
    for name, (words, said) in commands.items():
        with watched(bench.device) as peak:
            done = bench.ftcli(*words, said=said)
        found.figures[f"{name}_gib"] = round(peak.gib, 2)
        within = f"{name} takes {peak.gib:.2f} GiB, training {training.gib:.2f}"
        found.expect_on_card(peak.gib <= _SLACK * training.gib, within)
        found.expect(bool(done.out), f"{name} says something")
    found.expect((merged / "config.json").is_file(), "the merged model is a whole one")


def exhausted(bench: Bench, found: Findings) -> None:
    """A run that is too large is refused; started all the same, it ends out of memory as a user's situation."""
    too_large = rows.conversations(bench.folder, 64, bench.either(4096, 48))
    batch = "train.per_device_train_batch_size=64"
    whole = ["train.gradient_checkpointing=false", "method.packing=false", batch]
    named = [] if bench.on_card else ["hardware.gpu=1GiB", "model=llama"]
    model = [f"model={bench.model('8b')}"] if bench.on_card else []
    refused = bench.ftcli(
        "train", "hardware=gpu", "peft=none", *named, *model, f"data.path={too_large}", *whole,
        f"run.dir={bench.run_dir('refused')}", expect=4,
    )  # fmt: skip
    found.figures["refused"] = {"seconds": refused.seconds, "said": refused.tail()}
    found.expect("does not fit" in refused.err, "the refusal says that the run does not fit")
    found.expect("--anyway" in refused.err, "the refusal says how to start it all the same")
    # On a CPU a layer of 17 GiB meets an address space of 16; on a card the same batch meets the card.
    start = [f"run.dir={bench.run_dir('exhausted')}", *bench.hardware, "run.score_rows=0", "train.eval_strategy=no"]
    if bench.on_card:
        words = ["peft=lora", f"model={bench.model('1b')}", f"data.path={too_large}", *whole, "--anyway"]
    else:
        many = rows.conversations(bench.folder, 512, 128)
        size = "train.per_device_train_batch_size=512"
        words = ["peft=none", f"model={bench.model('wide')}", f"data.path={many}", size, "method.packing=false"]
    done = bench.ftcli("train", *start, *words, expect=4, limit_gib=None if bench.on_card else 16)
    found.figures["exhausted"] = {"seconds": done.seconds, "said": done.tail(3)}
    for sentence in ("ran out of memory", "planned:", "resume with"):
        found.expect(sentence in done.out + done.err, f"a run out of memory says «{sentence}»")
