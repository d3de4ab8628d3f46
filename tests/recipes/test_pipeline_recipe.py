"""The short recipe of a pipeline composes to the same stages, whichever way they were written, and says no more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.core.strict_yaml import load
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.pipelines.stages import PipelineSpec
from ftcli.recipes import pipeline_lock, pipeline_recipe
from ftcli.settings.ownership import ENDPOINT

OPENAI = ("judge=openai", "judge.model=gpt", "judge.base_url=http://localhost:1/v1", "judge.concurrency=2")


def spec_of(*overrides: str) -> PipelineSpec:
    wanted = pipeline_request(Request(overrides=overrides, grants=frozenset({ENDPOINT})))
    assert wanted is not None
    return pipeline_spec(wanted)


def remembered(spec: PipelineSpec) -> dict[str, Any]:
    """What pipeline.json would have of each stage, without the values that are derived again."""
    found: dict[str, Any] = json.loads(json.dumps(spec.remembered()))
    return {name: {key: each for key, each in kept.items() if key != "resolved"} for name, kept in found.items()}


def saved(spec: PipelineSpec, folder: Path) -> Path:
    text, _ = pipeline_recipe.recipe(spec.pipeline, spec.remembered(), folder, "short.yaml", ["measured: nothing"])
    (folder / "short.yaml").write_text(text, encoding="utf-8")
    return folder / "short.yaml"


WAYS: dict[str, tuple[str, ...]] = {
    "rlhf": ("method=rlhf",),
    "options of all and of one": (
        "method=rlhf", "peft=lora", "train.max_steps=8", "stages.ppo.method.kl_coef=0.3", "stages.sft.peft=none",
        "seed=7", "stages.reward.seed=8", "method.measure=false", "stages.sft.train.learning_rate=1e-3",
    ),
    "a model that is typed once": ("method=rlhf", "model.name_or_path=model", "model.attn_implementation=eager"),
    "a model of one stage": ("method=rlhf", "stages.sft.model.name_or_path=model", "stages.sft.data.path=rows.jsonl"),
    "a model that another stage would give": ("method=rlhf", "stages.ppo.model.name_or_path=model"),
    "a built-in model where another would be given": (
        "method=rlhf", "model.name_or_path=model", "stages.reward.model.name_or_path=builtin:tiny",
    ),
    "a stage that is there": ("method=rlhf", "stages.reward.data.path=pairs.jsonl", "stages.sft.model=model"),
    "rows of one's own": ("method=rlhf", "stages.sft.data.path=rows.jsonl", "stages.reward.data.mix=null",
                          "stages.reward.data.path=pairs.jsonl"),
    "rlaif": ("method=rlaif", "stages.sample.make.n=4", "stages.sample.data.max_rows=9", "judge.batch_size=4"),
    "rlaif with rows": ("method=rlaif", "model.name_or_path=model", "stages.assistant.data.path=rows.jsonl",
                        "stages.sft.data.path=rows.jsonl", "stages.sample.data.path=prompts.jsonl",
                        "stages.judge.make.constitution=principles.yaml"),
    "the judge itself": ("method=rlaif", "method.algorithm=direct"),
    "an endpoint judges": ("method=rlaif", *OPENAI),
    "an endpoint rewards": ("method=rlaif", "method.algorithm=direct", *OPENAI),
    "another judge": ("method=rlaif", "method.algorithm=direct", "judge.model=model"),
    "a reward model": ("method=rlaif", "method.algorithm=ppo", "stages.judge.judge=rules", "judge.patterns=[rude]"),
    "rounds": ("method=online_dpo", "method.rounds=2", "method.reference=start", "stages.dpo_2.method.beta=0.2"),
    "rounds that have all the first has": (
        "method=online_dpo", "method.rounds=3", "stages.sample.data.max_rows=9", "stages.judge.make.least_margin=0.1",
        "stages.dpo.method.beta=0.3", "stages.dpo.train.max_steps=2", "judge.batch_size=4", "stages.sample.seed=3",
    ),
    "rounds of their own": (
        "method=online_dpo", "method.rounds=2", "stages.sample.data.max_rows=9", "stages.sample_2.data.max_rows=null",
        "stages.dpo.peft=lora", "stages.dpo.peft.r=4", "stages.dpo_2.peft=none", "stages.dpo_2.method.beta=0.2",
        "stages.dpo.data.path=pairs.jsonl", "stages.judge.judge=rules", "stages.judge.judge.patterns=[rude]",
        "stages.judge_2.judge=local", "stages.sample_2.data.path=prompts.jsonl",
    ),
    "constitutional": ("method=constitutional", "stages.revisions.make.rounds=2"),
    "constitutional with a mix": (
        "method=constitutional", "stages.revised.data.mix={helpful: {path: builtin:instructions}}",
    ),
}  # fmt: skip


@pytest.fixture
def filled(here: Path) -> Path:
    """A working directory with rows, a model and principles."""
    rows = [{"prompt": f"Say {n}.", "completion": f"{n}"} for n in range(24)]
    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": "no"} for n in range(24)]
    prompts = [{"prompt": row["prompt"]} for row in rows]
    for name, every in (("rows", rows), ("prompts", prompts), ("pairs", pairs)):
        (here / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in every), encoding="utf-8")
    shutil.copytree(tiny.MODEL_DIR, here / "model")
    principle = 'principles:\n  - name: a\n    judge: "{prompt} {answer} Say yes or no."\n'
    (here / "principles.yaml").write_text(principle, encoding="utf-8")
    return here


@pytest.mark.parametrize("way", WAYS)
def test_the_recipe_of_a_pipeline_is_the_same_pipeline(way: str, filled: Path) -> None:
    spec = spec_of(*WAYS[way])
    again = spec_of(f"recipe={saved(spec, filled)}")
    assert remembered(again) == remembered(spec)
    assert again.pipeline.chosen == spec.pipeline.chosen
    assert str(filled) not in (filled / "short.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["rlhf", "rlaif", "online-dpo", "constitutional"])
def test_a_shipped_pipeline_is_saved_as_what_differs(name: str, filled: Path, capsys) -> None:
    stages = {"rlhf": ("sft", "reward", "ppo"), "constitutional": ("helpful", "answers", "sample", "ppo")}
    rows = {"reward": "pairs", "answers": "prompts", "sample": "prompts", "ppo": "prompts"}
    typed = [
        f"stages.{stage}.data.path={rows.get(stage, 'rows')}.jsonl"
        for stage in stages.get(name, ("sft", "sample"))
        if not (name == "constitutional" and stage == "ppo")
    ]
    words = (f"recipe={name}-lora-8b", *typed)
    spec = spec_of(*words)
    again = spec_of(f"recipe={saved(spec, filled)}")
    assert remembered(again) == remembered(spec)
    assert main(["recipe", "save", *words]) == 0
    assert "# not measured" in capsys.readouterr().out


def test_only_what_differs_is_written_and_says_what_it_is(filled: Path) -> None:
    file = saved(spec_of("method=rlhf", "peft=lora", "train.max_steps=8", "stages.ppo.method.kl_coef=0.3"), filled)
    assert load(file).data == {
        "ftcli": 1,
        "defaults": [{"method": "rlhf"}, {"peft": "lora"}],
        "train": {"max_steps": 8},
        "stages": {"ppo": {"method": {"kl_coef": 0.3}}},
    }
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# rlhf in 3 stages: sft, reward, ppo.   ftcli train recipe=short.yaml\n")
    assert "kl_coef: 0.3" in text.partition("ppo:")[2].partition("#")[0]


def test_reused_rows_are_told_of(filled: Path) -> None:
    spec = spec_of("method=rlaif")
    entries = {**spec.remembered(), "sample": {"ready": "/x/sample/data.jsonl"}}
    with pytest.raises(ConfigError, match="reuses the rows of stage sample of another pipeline"):
        pipeline_recipe.recipe(spec.pipeline, entries, filled, "short.yaml", [])


def test_what_no_stage_makes_is_a_file_of_the_lock(filled: Path) -> None:
    spec = spec_of(*WAYS["rlaif with rows"], "stages.judge.make.labelled=pairs.jsonl")
    names = {name for name, _ in pipeline_lock.files_of(spec, filled / "short.yaml")}
    rows = {name for name in names if ".model.name_or_path:" not in name}
    assert rows == {
        "stages.assistant.data.path:rows.jsonl",
        "stages.sft.data.path:rows.jsonl",
        "stages.sample.data.path:prompts.jsonl",
        "stages.judge.make.constitution:principles.yaml",
        "stages.judge.make.labelled:pairs.jsonl",
    }
    # Only the first stage starts from a model that is there already.
    assert {name.partition(".model.")[0] for name in names - rows} == {"stages.assistant"}


def test_the_stages_that_follow_from_an_endpoint_are_free_without_its_answers(filled: Path) -> None:
    spec = spec_of(*WAYS["an endpoint judges"])
    recipe = filled / "short.yaml"
    assert pipeline_lock.answers(recipe, spec).free == {"judge", "dpo"}
    place = filled / "short.answers/judge-items.jsonl"
    place.parent.mkdir()
    place.write_text("{}\n", encoding="utf-8")
    found = pipeline_lock.answers(recipe, spec)
    assert (found.free, found.kept) == (set(), {"judge": {"items.jsonl": place}})
    assert "stages.judge.answers:items.jsonl" in dict(pipeline_lock.files_of(spec, recipe))
    assert pipeline_lock.answers(recipe, spec_of(*WAYS["an endpoint rewards"])).free == {"ppo"}
