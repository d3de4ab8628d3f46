"""Reward functions of one's own: `file.py:function` and `package.module:function`, typed or in a recipe alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.settings.ownership import ALLOW_PATH, REWARD_CODE
from tests.ranks import environment
from tests.warm import Warm

CODE = "def polite(completions, **columns):\n    return [1.0 for _ in completions]\n"
HEAD = "ftcli: 1\ndefaults: [{method: grpo}, {hardware: cpu}]\nmethod:\n  reward_functions: "


def functions(*overrides: str, grants: tuple[str, ...] = ()) -> dict[str, float]:
    found: dict[str, float] = spec_of(Request(overrides=overrides, grants=frozenset(grants))).method["reward_functions"]
    return found


@pytest.fixture
def code(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and its rewards, and a module beside it that can be imported."""
    (here / "mine").mkdir()
    (here / "mine" / "rewards.py").write_text(CODE, encoding="utf-8")
    (here / "importable.py").write_text(CODE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(here))
    monkeypatch.syspath_prepend(str(here))
    return here


def test_both_forms_are_typed_as_they_are_written_in_a_recipe(code: Path):
    both = {f"{code}/mine/rewards.py:polite": 1, "importable:polite": 0.5}
    typed = "method.reward_functions={mine/rewards.py:polite: 1, importable:polite: 0.5}"
    assert functions("method=grpo", "hardware=cpu", typed) == both
    (code / "mine" / "r.yaml").write_text(f"{HEAD}{{rewards.py:polite: 1, importable:polite: 0.5}}\n", encoding="utf-8")
    assert functions("recipe=mine/r.yaml", grants=(REWARD_CODE,)) == both


@pytest.mark.parametrize(
    "form", ["{mine/rewards.py:polite: 1}", "{'mine/rewards.py:polite': 1}", "{mine/rewards.py:polite: 1.0 }"]
)
def test_quotes_and_spaces_change_nothing(form: str, code: Path):
    assert functions("method=grpo", "hardware=cpu", f"method.reward_functions={form}") == {
        f"{code}/mine/rewards.py:polite": 1
    }


def test_a_recipes_function_needs_its_grant_and_stays_in_the_recipes_folder(code: Path):
    (code / "mine" / "r.yaml").write_text(f"{HEAD}{{rewards.py:polite: 1}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"grant it on the command line with {REWARD_CODE}"):
        functions("recipe=mine/r.yaml")
    (code / "mine" / "r.yaml").write_text(f"{HEAD}{{../importable.py:polite: 1}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="points outside the recipe's folder"):
        functions("recipe=mine/r.yaml", grants=(REWARD_CODE,))
    assert list(functions("recipe=mine/r.yaml", grants=(REWARD_CODE, ALLOW_PATH))) == [f"{code}/importable.py:polite"]


def test_what_is_no_mapping_of_functions_is_told(code: Path):
    for value, said in (
        ("1", "not a mapping"),
        ("{mine/rewards.py: 1}", "neither file.py:function"),
        ("{x:y: a}", "not a mapping"),
    ):
        with pytest.raises(ConfigError, match=said):
            functions("method=grpo", "hardware=cpu", f"method.reward_functions={value}")


def test_a_link_beside_a_recipe_leads_to_no_code_elsewhere(code: Path):
    (code / "mine" / "linked.py").symlink_to(code / "importable.py")
    (code / "mine" / "r.yaml").write_text(f"{HEAD}{{linked.py:polite: 1}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="points outside the recipe's folder"):
        functions("recipe=mine/r.yaml", grants=(REWARD_CODE,))


def test_a_run_learns_from_a_file_and_resumes_with_that_code_alone(code: Path, warm: Warm | None):
    if warm is None:
        pytest.skip("no process can be forked here")
    words = ["train", "method=grpo", "model=tiny", "hardware=cpu", "run.dir=run", "data.max_rows=4"]
    words += ["method.reward_functions={mine/rewards.py:polite: 1}", "run.score_rows=0", "train.eval_strategy=no"]
    words += ["method.max_completion_length=8", "method.num_generations=2", "train.per_device_train_batch_size=2"]
    words += ["train.gradient_accumulation_steps=1", "train.max_steps=1", "train.logging_steps=1"]
    done = warm.run(words, code, environment(OMP_NUM_THREADS="1"), 600)
    assert done.returncode == 0, done.stderr
    logged = [json.loads(line) for line in (code / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any(line.get("reward") == 1.0 for line in logged), logged
    (code / "mine" / "rewards.py").write_text(CODE.replace("1.0", "2.0"), encoding="utf-8")
    again = warm.run(["train", "--resume", "run", REWARD_CODE, "train.max_steps=2"], code, environment(), 600)
    assert again.returncode == 2
    assert "has changed since the run began (method.reward_functions)" in again.stderr
