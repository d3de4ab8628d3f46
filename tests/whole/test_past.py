"""What version 0.1 left on a disk (tests/fixtures/v0_1) is resumed, reproduced and read by the code of today.

Weights are compared bit for bit where this processor, its instruction set and torch are those that made the fixture,
since the order of a sum depends on all three; elsewhere to 1e-5.
"""

from __future__ import annotations

import copy
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

import ftcli as package
from ftcli.cli import main
from ftcli.methods import get_method
from ftcli.runs import rundir
from ftcli.settings.groups import CARD
from ftcli.synthesis.runner import USED
from tests.conftest import REPOSITORY
from tests.whole.conftest import Train, steps

PAST = REPOSITORY / "tests" / "fixtures" / "v0_1"
BINARY = {".pt", ".pth", ".safetensors"}
RECIPES = json.loads((PAST / "recipes.json").read_text(encoding="utf-8"))
ADAPTER = Path(rundir.MODEL, "adapter_model.safetensors")
JOURNAL, ROWS = "items.jsonl", "data.jsonl"  # of a stage that makes data
QUICK = ("hardware=cpu", "hardware.num_threads=1", "train.save_strategy=no", "train.eval_strategy=no")
ELSEWHERE = 1e-5
# A measure counts answers, 240 of them; on another processor a near tie may fall the other way in a few.
ELSEWHERE_MEASURE = 0.02

LOSS_LAST = 5.7568037
HELD_OUT = {"before": 5.3569251, "after": 5.2057045}
"""Losses of the run of then as they are measured today: 0.1 took means of batch means, and not over all tokens."""


@pytest.fixture
def past(tmp_path: Path) -> Path:
    """A copy of the runs of then, at a place of its own; checkpoints are not touched, as their manifests seal them."""
    runs = Path(shutil.copytree(PAST / "runs", tmp_path / "runs"))
    places = {"@ROOT@": str(tmp_path), "@FTCLI@": str(Path(str(package.__file__)).parent)}
    for path in runs.rglob("*"):
        if path.is_file() and path.suffix not in BINARY and rundir.CHECKPOINTS not in path.parts:
            text = path.read_text(encoding="utf-8")
            for name, place in places.items():
                text = text.replace(name, place)
            path.write_text(text, encoding="utf-8")
    return runs


def same_arithmetic() -> bool:
    """Whether this processor and torch are those of the fixture."""
    import torch

    made_on = json.loads((PAST / "made_on.json").read_text(encoding="utf-8"))
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    here = (
        names or {platform.processor()},
        torch.backends.cpu.get_cpu_capability(),
        torch.__version__.partition("+")[0],
    )
    return here == ({made_on["cpu"]}, made_on["capability"], made_on["torch"])


def assert_same_weights(path: Path, of_then: Path) -> None:
    """The same tensors: to the bit where the arithmetic is the same."""
    import torch
    from safetensors.torch import load_file

    found, expected = load_file(path), load_file(of_then)
    assert found.keys() == expected.keys()
    tolerance = 0.0 if same_arithmetic() else ELSEWHERE
    far = {name: float((found[name] - expected[name]).abs().max()) for name in expected}
    assert {name: gap for name, gap in far.items() if gap > tolerance} == {}
    assert all(found[name].dtype == expected[name].dtype for name in expected)
    assert any(bool(torch.any(each != 0)) for name, each in expected.items() if "lora_B" in name)  # it was trained


def close(value: Any, elsewhere: float = ELSEWHERE) -> Any:
    """What equals `value`, to the bit where the arithmetic is the same."""
    return value if same_arithmetic() else pytest.approx(value, abs=elsewhere)


def of(path: Path) -> Any:
    """The JSON of a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def rows(path: Path) -> list[dict[str, Any]]:
    """The JSON of each line of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_fixture_names_no_place_of_the_machine_that_made_it() -> None:
    files = [path for path in PAST.rglob("*") if path.is_file()]
    assert len(files) > 80
    places = [b"/%s/" % name for name in (b"home", b"root", b"tmp", b"Users", b"work")]
    assert [path for path in files for place in places if place in path.read_bytes()] == []


def test_a_run_of_then_resumes_from_its_checkpoint_to_its_own_weights(past: Path, ftcli_run: Train) -> None:
    run = past / "lora"
    logged = steps(run)
    shutil.rmtree(run / rundir.CHECKPOINTS / "checkpoint-6")
    shutil.rmtree(run / rundir.MODEL)
    before = of(run / rundir.RESULT)
    (run / rundir.RESULT).unlink()
    said = ftcli_run("train", "--resume", str(run), cwd=past)
    assert "checkpoint-3" in said.stdout + said.stderr
    assert_same_weights(run / ADAPTER, PAST / "runs" / "lora" / ADAPTER)
    now = of(run / rundir.RESULT)
    assert now.keys() == {*before, "machine", "model_manifest"}  # two of which no result of then had
    for side in ("train", "eval"):
        for name in ("unread", "unrolled", "unrolled_examples", "repeated_tokens"):  # which no ledger of then had
            assert not now["ledger"][side].pop(name)
        assert before["ledger"][side].pop("last_turn_only") == 0  # such conversations are unrolled today
    assert (now["steps"], now["ledger"], now["parameters"]) == (6, before["ledger"], before["parameters"])
    assert now["score"] == close(before["score"])
    assert (now["loss_last"], now["eval_loss"]["after"]) == (close(LOSS_LAST), close(HELD_OUT["after"]))
    assert steps(run)[-1]["loss"] == close(LOSS_LAST)
    assert steps(run)[:-1] == logged[:-1]  # lines of then stay as they were written


def test_from_a_run_of_then_the_same_weights_are_trained_anew(past: Path, ftcli_run: Train) -> None:
    ftcli_run("train", "--from", str(past / "lora"), "run.dir=again", cwd=past)
    assert_same_weights(past / "again" / ADAPTER, PAST / "runs" / "lora" / ADAPTER)


def test_a_pipeline_of_then_runs_its_last_stage_again(past: Path, ftcli_run: Train) -> None:
    whole = past / "rlaif"
    before = of(whole / rundir.RESULT)
    shutil.rmtree(whole / "dpo")
    (whole / rundir.RESULT).unlink()
    said = ftcli_run("train", "--resume", str(whole), cwd=past, OMP_NUM_THREADS="1")
    assert "stage judge: finished" in said.stderr
    assert_same_weights(whole / "dpo" / ADAPTER, PAST / "runs" / "rlaif" / "dpo" / ADAPTER)
    now = of(whole / rundir.RESULT)
    assert list(now["measures"]) == list(before["measures"])
    for policy, values in before["measures"].items():
        assert now["measures"][policy] == close(values, ELSEWHERE_MEASURE)
    assert list(now["stages"]) == list(before["stages"])


def cut(stage: Path) -> int:
    """Leave a data-making stage as a kill in its middle would; returns how many items its journal keeps."""
    lines = (stage / JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
    kept = len(lines) // 2
    (stage / JOURNAL).write_text("".join(lines[:kept]), encoding="utf-8")
    (stage / ROWS).unlink()
    (stage / rundir.RESULT).unlink(missing_ok=True)
    return kept


# Since a judge applies its head to 512 tokens at a time, and not to whole rows, its odds differ in the sixth digit.
def odds(item: dict[str, Any]) -> list[float]:
    """What a judge gave each answer of an item."""
    return [reply["yes"] for reply in item["replies"]]


LATER = ("margin", "chosen_probability")
"""Of a row of then, what follows from the odds, and what no row had."""


def without_odds(item: dict[str, Any]) -> dict[str, Any]:
    """An item but for those, for the margin that follows from them, and for what no item of then told."""
    replies = [{key: value for key, value in reply.items() if key != "yes"} for reply in item["replies"]]
    row = item["row"] and {key: value for key, value in item["row"].items() if key not in LATER}
    return {**{name: value for name, value in item.items() if name != USED}, "replies": replies, "row": row}


def test_a_data_making_stage_of_then_goes_on_with_its_journal(past: Path, ftcli_run: Train) -> None:
    whole, then = past / "rlaif", PAST / "runs" / "rlaif"
    judge = whole / "judge"
    shutil.rmtree(whole / "dpo")
    (whole / rundir.RESULT).unlink()
    kept = {stage: cut(stage) for stage in (judge, judge / "agreement")}
    assert min(kept.values()) >= 3
    begun = {stage: rows(stage / JOURNAL) for stage in kept}
    ftcli_run("train", "--resume", str(whole), cwd=past, OMP_NUM_THREADS="1")
    for stage, items in begun.items():  # taken, not asked anew, but for those of a batch that was not whole
        for found, item in zip(rows(stage / JOURNAL), items, strict=False):
            assert without_odds(found) == without_odds(item)
            assert odds(found) == pytest.approx(odds(item), abs=ELSEWHERE)
    result = of(judge / rundir.RESULT)
    assert (result["items"], result["rows"], result["dropped"]) == (6, 3, {"tie": 3})
    assert result["agreement"] == of(then / "judge" / rundir.RESULT)["agreement"]
    pairs = [rows(each / "judge" / ROWS) for each in (whole, then)]
    margins = [[row.pop("margin") for row in found] for found in pairs]
    assert all("chosen_probability" in row for row in pairs[0])  # which no row of then had
    for row in pairs[0]:
        del row["chosen_probability"]
    assert pairs[0] == pairs[1]
    assert margins[0] == pytest.approx(margins[1], abs=ELSEWHERE)
    assert_same_weights(whole / "dpo" / ADAPTER, then / "dpo" / ADAPTER)


def test_runs_of_then_are_reported(past: Path, ftcli_run: Train) -> None:
    said = ftcli_run("report", str(past / "lora"), cwd=past).stdout
    assert "5.6007" in said or "5.601" in said  # held-out loss after training
    whole = ftcli_run("report", str(past / "rlaif"), "--json", cwd=past)
    assert json.loads(whole.stdout)["measures"] == of(PAST / "runs" / "rlaif" / rundir.RESULT)["measures"]
    judged = ftcli_run("report", str(past / "rlaif" / "judge"), cwd=past).stdout
    assert "3 rows from 6 items" in judged
    assert "margin: 0.635563" in judged


def test_a_run_of_then_is_evaluated_to_its_own_numbers(past: Path, ftcli_run: Train) -> None:
    run = past / "lora"
    measured = json.loads(ftcli_run("eval", str(run), "--json", cwd=past).stdout)
    expected = of(run / rundir.RESULT)
    for when, loss in HELD_OUT.items():
        assert measured[when]["eval_loss"] == pytest.approx(loss, abs=1e-4)
        assert expected["eval_loss"][when] > loss + 0.3  # as the mean of batch means that it was


def test_a_model_of_then_answers(past: Path, ftcli_run: Train) -> None:
    words = ("generate", str(past / "lora"), "What is the sum of 7 and 2?", "--json")
    [line] = ftcli_run(*words, cwd=past).stdout.splitlines()
    assert json.loads(line)


def test_an_adapter_of_then_is_the_base_of_a_run_of_today(past: Path, ftcli_run: Train) -> None:
    base = past / "lora" / rundir.MODEL
    ftcli_run(
        "train", f"model.name_or_path={base}", "peft=lora", *QUICK, "train.max_steps=1", "data.max_rows=16",
        "run.score_rows=0", "run.dir=next", cwd=past,
    )  # fmt: skip
    assert of(past / "next" / rundir.RESULT)["steps"] == 1


SINCE = {
    "data": {"template": "auto", "delimiter": "auto", "split_seed": None, "near_duplicates": None},
    "model": {"chat_template": None, "chat_template_kwargs": None, "new_tokens": None},
    "hardware": {
        "gpu": None,
        "device": "auto",
        "max_restarts": 0,
        "step_timeout_seconds": 1800,
        "node_type": "multi_gpu",
        "num_nodes": None,
        "node_rank": None,
        "rendezvous": None,
        "account": None,
        "partition": None,
        "time_limit": None,
        "container": None,
        "stop_seconds": 300,
        "max_requeues": 100,
        "sbatch": None,
    },
    "run": {
        "background_save": None,
        "trackers": None,
        "tracking": None,
        "retention": None,
        "gate": None,
        "profile": False,
        "profile_steps": None,
    },
}
"""Settings that did not exist then, with the value that a recipe of then gets today. `data.template=auto` changes what
text pairs train; none of these recipes reads any."""


def shown(of_recipe: dict[str, Any]) -> dict[str, Any]:
    """The choices and values of a composition, or of each stage of one, without the prose of its notes."""
    if "stages" not in of_recipe:
        config = dict(of_recipe["config"])
        if "model" in config:  # what its file says of a model is no setting of a run, and was not there then
            card = set(CARD) - {"shape"}
            config["model"] = {key: value for key, value in config["model"].items() if key not in card}
        return {"choices": of_recipe["choices"], "config": config}
    stages = {name: shown(stage) for name, stage in of_recipe["stages"].items()}
    return {"pipeline": of_recipe["pipeline"], "stages": stages}


PAGED, UNPAGED = "paged_adamw_8bit", "adamw_8bit"
"""An optimiser that pages its state out of a GPU's memory, and the same without: on the CPU of these compositions the
first ended in the middle of a run, and is refused today."""
RENAMED = {"qwen2.5-0.5b": "qwen2.5-0.5b-base", "llama": "llama-base"}
"""Choices whose name means the instruct model today; a recipe that means the base names it."""
GONE = object()
LATER_DEFAULTS: dict[str, dict[str, Any]] = {
    "dpo-lora-8b": {"train.warmup_steps": 0.1},
    "grpo-lora-4b": {"train.lr_scheduler_type": "constant_with_warmup"},
    "instruct-small-cpu": {"train.learning_rate": 5e-4},  # of 0.6B parameters
    "kto-lora-8b": {"train.warmup_steps": 0.1},
    "orpo-lora-8b": {"train.warmup_steps": 0.1, "train.num_train_epochs": 1},
    "reward-lora-8b": {"train.gradient_accumulation_steps": 64},
    "rlhf-lora-8b": {
        "stages.sft.train.gradient_accumulation_steps": 4,  # 16 rows a step, in passes of 4
        "stages.reward.train.gradient_accumulation_steps": 32,
        "stages.ppo.train.learning_rate": 5e-6,
        "stages.ppo.train.lr_scheduler_type": "constant_with_warmup",
        "stages.ppo.method.value_learning_rate": 5e-5,
        "stages.ppo.method.num_ppo_epochs": GONE,  # the usual 4
    },
    "sft-lora-8b": {"train.gradient_accumulation_steps": 16},
    "sft-qlora-14b": {"train.gradient_accumulation_steps": 16},
}
"""What recipes train with since each method, adapter and size has defaults of its own, where they had others then."""


def with_later_defaults(of_recipe: dict[str, Any], recipe: str) -> dict[str, Any]:
    """The values of then with the defaults of today in their place."""
    changed = copy.deepcopy(of_recipe)
    for name, value in LATER_DEFAULTS.get(recipe, {}).items():
        *path, group, key = name.split(".")
        part = changed["stages"][path[1]] if path else changed
        if value is GONE:
            del part["config"][group][key]
        else:
            part["config"][group][key] = value
    return changed


def with_later_settings(of_recipe: dict[str, Any]) -> dict[str, Any]:
    """The values of then with the settings added since."""
    if "stages" in of_recipe:
        stages = {name: with_later_settings(stage) for name, stage in of_recipe["stages"].items()}
        return {**of_recipe, "stages": stages}
    if "config" not in of_recipe or "data" not in of_recipe["config"]:
        return of_recipe
    then, run = of_recipe["choices"]["model"], of_recipe["config"]["run"]
    now = RENAMED.get(then, then)
    later: dict[str, Any] = {group: {**of_recipe["config"][group], **values} for group, values in SINCE.items()}
    if now == "llama-base":  # which has no template of its own: its recipe names one
        later["model"]["chat_template"] = "llama3_1"
    if of_recipe["config"]["train"].get("optim") == PAGED:
        later["train"] = {**of_recipe["config"]["train"], "optim": UNPAGED}
    method = get_method(of_recipe["config"]["method"]["name"])
    train = later.get("train", of_recipe["config"]["train"])
    if not method.samples:  # rows are evaluated in batches that need no more memory than those that train
        size = min(train["per_device_eval_batch_size"], 2 * train["per_device_train_batch_size"])
        later["train"] = {**train, "per_device_eval_batch_size": size}
    if method.name == "grpo":  # the library's default loss, written out since it can be named
        later["method"] = {**of_recipe["config"]["method"], "loss_type": "dapo"}
    # The held-out loss of the starting model is measured since then, where the run evaluates.
    evaluates = train.get("eval_strategy") not in (None, "no") and not method.rewarded
    measured = evaluates and (bool(run["score_rows"]) or not (method.samples or train.get("eval_on_start")))
    later["run"] = {**later["run"], "loss_before": measured, "name": run["name"].replace(f"-{then}", f"-{now}")}
    choices = {**of_recipe["choices"], "model": now}
    return {**of_recipe, "choices": choices, "config": {**of_recipe["config"], **later}}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_of_then_composes_to_the_values_of_then_but_for_defaults_that_changed(
    recipe: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optim = RECIPES[recipe].get("config", {}).get("train", {}).get("optim")
    more = [f"train.optim={UNPAGED}"] if optim == PAGED else []
    assert main(["show", *RECIPES[recipe]["words"], *more, "--json"]) == 0
    found = shown(json.loads(capsys.readouterr().out))
    then = with_later_settings({key: value for key, value in RECIPES[recipe].items() if key != "words"})
    assert found == with_later_defaults(then, recipe)


def test_changed_weights_are_noticed(past: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(past / "lora" / ADAPTER)
    next(iter(tensors.values())).view(-1)[0] += 1e-3
    save_file(tensors, tmp_path / "changed.safetensors")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "changed.safetensors", PAST / "runs" / "lora" / ADAPTER)
