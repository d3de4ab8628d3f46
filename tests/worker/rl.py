"""A small world for methods that learn from their own answers: words that a random model was taught to choose among."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcli.runs import rundir
from ftcli.worker.training.run import train
from tests.conftest import MakeOnce
from tests.worker.conftest import write_rows

WORDS = ("red", "blue", "green", "sun")
WORTH = {"red": 1.0, "blue": 0.6, "green": 0.3}


def prompt(text: str) -> list[dict[str, str]]:
    """One question."""
    return [{"role": "user", "content": text}]


def arms(completions: Any, **_: Any) -> list[float]:
    """A bandit's arms: what each word is worth; anything else is worth nothing."""
    return [WORTH.get(answer[-1]["content"], 0.0) for answer in completions]


def share_of_red(completions: Any, **_: Any) -> list[float]:
    """The share of three words that are red; more or fewer words are worth nothing."""
    said = [answer[-1]["content"].split() for answer in completions]
    return [words.count("red") / 3 if len(words) == 3 else 0.0 for words in said]


def first_process(completions: Any, **_: Any) -> list[float]:
    """1 for the answers of the first process, 0 for those of others."""
    return [float(os.environ.get("RANK", "0") == "0")] * len(completions)


def taught(once: MakeOnce, make_spec: Any, words: int) -> Path:
    """A model that answers with so many of the four words, each as likely as the others; its tests only read it."""
    asked = "Pick." if words == 1 else "Pick three."
    answers = [" ".join(WORDS[(i // 4**k) % 4] for k in range(words)) for i in range(4**words)]
    rows = [{"messages": [*prompt(asked), {"role": "assistant", "content": answer}]} for answer in answers]

    def make(folder: Path) -> None:
        file = write_rows(folder / "rows.jsonl", rows * (8 if words == 1 else 1))
        spec = make_spec(file, train={"max_steps": 60, "per_device_train_batch_size": 32, "learning_rate": 1e-2})
        (folder / "run").mkdir()
        (folder / "run" / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
        train(folder / "run")

    return once(f"taught{words}", make) / "run" / rundir.MODEL


def prompts_file(folder: Path, words: int, rows: int = 16) -> Path:
    """The question over and over, with red as its right answer."""
    asked = "Pick." if words == 1 else "Pick three."
    answer = " ".join(["red"] * words)
    return write_rows(folder / f"prompts{words}.jsonl", [{"prompt": prompt(asked), "answer": answer}] * rows)


def rewards_of(run: Path) -> list[float]:
    """The mean reward of each rollout."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["reward"] for line in lines if "reward" in line]


def sampling(name: str, longest: int = 8, **more: Any) -> dict[str, Any]:
    """Settings of a method that samples; `kl` is the weight of the divergence under each method's own name."""
    kl = more.pop("kl", 0.0)
    if name == "ppo":
        own = {"max_new_tokens": longest, "kl_coef": kl, "num_ppo_epochs": 2, "log_completions_steps": 0}
    else:
        own = {"max_completion_length": longest, "beta": kl, "num_generations": 8}
    return {"name": name, **own, **more}


def rl_spec(make_spec: Any, file: Path, model: Path, method: dict[str, Any], **train_settings: Any) -> Any:
    """A spec with a batch that the groups fill."""
    settings = {"per_device_train_batch_size": 16, "learning_rate": 3e-3, "max_steps": 60, **train_settings}
    spec = make_spec(file, method=method, model=model, train=settings)
    return replace(spec, choices={"method": method["name"]})


def whole_and_resumed(spec: Any, new_run: Callable[..., Path]) -> tuple[Path, Path]:
    """A run to its end, and one like it that was gone on with from its checkpoint of step 3."""
    whole, halted = new_run(spec, "whole"), new_run(spec, "halted")
    train(whole)
    train(halted)
    for folder in (halted / "checkpoints").iterdir():
        if folder.name != "checkpoint-3":
            shutil.rmtree(folder)
    (halted / "result.json").unlink()
    train(halted, resume=halted / "checkpoints" / "checkpoint-3")
    return whole, halted
