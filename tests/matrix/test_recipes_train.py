"""Each shipped recipe really runs, for three steps of the built-in model: `make test` runs four, `make matrix` all.

What a recipe says stays, but for what the small model cannot have: its size, the number of cards, and lengths.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftcli.config.recipe_file import Recipe, read
from ftcli.core import assets
from ftcli.methods import Pipeline, all_pipelines
from tests.ranks import environment
from tests.warm import Warm

WHOLE = os.environ.get("FTCLI_MATRIX") == "1"
SOME = ("zephyr-7b-dpo", "sft-qlora-8b", "grpo-gspo-lora-4b", "pretrain-language-8b")
"""One with a template, a mix of rows, a quantised base, sampled answers, and new tokens each."""
SECONDS = 600
STEPS = 3
ROWS = 24
SHORT = {"max_length": 128, "max_completion_length": 12, "max_new_tokens": 12, "steps_per_generation": 2}


def small(recipe: Recipe) -> Iterator[str]:
    """The overrides that leave a recipe what it is, on the built-in model."""
    pipeline = all_pipelines().get(recipe.choices["method"])
    yield from ("model=tiny", "hardware=cpu", "hardware.num_threads=1")
    if "num_processes" in recipe.values.get("hardware", {}):
        yield "~hardware.num_processes"
    model, data = recipe.values.get("model", {}), recipe.values.get("data", {})
    if not str(model.get("chat_template", ".jinja")).endswith(".jinja"):  # of a family whose tokens it lacks
        yield "~model.chat_template"
    yield f"data.max_length_tokens={SHORT['max_length']}"
    if "mix" in data:
        kind = "text" if recipe.choices["method"] == "pretrain" else "preferences"
        for name, each in data["mix"].items():
            yield f"data.mix.{name}.path=builtin:{kind}"
            yield from (f"~data.mix.{name}.{key}" for key in ("split",) if key in each)
    elif "path" in data:
        yield "data.path=builtin:tiny"
        yield from ("~data.split",) if "split" in data else ()
    if recipe.choices["method"] != "pretrain":  # whose rows make too few blocks
        yield f"data.max_rows={ROWS}"
    if str(recipe.values.get("train", {}).get("optim", "")).startswith("paged_"):  # out of a GPU's memory
        yield "~train.optim"
    yield from _short_training(recipe, pipeline)
    yield from _short_answers(recipe, pipeline)


def _short_training(recipe: Recipe, pipeline: Pipeline | None) -> Iterator[str]:
    """Few and small steps; a group of answers stays whole."""
    rows = recipe.values.get("method", {}).get("num_generations", 2)
    yield from (f"train.per_device_train_batch_size={rows}", "train.gradient_accumulation_steps=1")
    yield "train.logging_steps=1"
    yield from (f"train.max_steps={STEPS}", "run.score_rows=0", "train.eval_strategy=no")
    if pipeline is None:
        yield from ("train.save_strategy=steps", "train.save_steps=2")


def _short_answers(recipe: Recipe, pipeline: Pipeline | None) -> Iterator[str]:
    """Short answers, where any are sampled, and models that are here."""
    own = recipe.values.get("method", {})
    for key in ("max_completion_length", "max_new_tokens", "steps_per_generation"):
        if key in own:
            yield f"method.{key}={SHORT[key]}"
    if "teacher_model" in own:
        yield "method.teacher_model=builtin:tiny"
    if pipeline is not None:
        yield from _short_stages(recipe, pipeline.arranged(own))


def _short_stages(recipe: Recipe, pipeline: Pipeline) -> Iterator[str]:
    """What a pipeline's stages write is short, and no policy is measured at the end."""
    yield "method.measure=false"
    for stage in pipeline.stages:
        own = recipe.stages.get(stage.name)
        if own is not None and own.ready:
            yield f"stages.{stage.name}.model=builtin:tiny"
        elif stage.task in ("generate", "revise"):
            yield f"stages.{stage.name}.make.max_new_tokens={SHORT['max_new_tokens']}"
        elif stage.method == "ppo":
            yield f"stages.{stage.name}.method.max_new_tokens={SHORT['max_new_tokens']}"
        if stage.task == "revise":
            yield f"stages.{stage.name}.make.examples=null"
        elif stage.task == "judge":  # an untrained judge prefers the answer that it is shown first, of any two
            yield from (f"stages.{stage.name}.make.mode=score", f"stages.{stage.name}.make.least_margin=0")


@pytest.mark.parametrize("name", assets.recipes() if WHOLE else SOME)
def test_a_recipe_trains_for_three_steps(name: str, warm: Warm | None, tmp_path: Path) -> None:
    if warm is None:
        pytest.skip("no process can be forked here")
    words = ["train", f"recipe={name}", *small(read(assets.recipes()[name])), f"run.dir={tmp_path / 'run'}"]
    done = warm.run(words, tmp_path, environment(OMP_NUM_THREADS="1"), SECONDS)
    assert done.returncode == 0, f"ftcli {' '.join(words)}\n{done.stdout}\n{done.stderr}"
    results = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "run").rglob("result.json")]
    steps = [result["steps"] for result in results if "steps" in result]
    assert steps
    assert set(steps) == {STEPS}
