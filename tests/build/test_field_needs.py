"""A setting without effect is an error: every condition of the table of fields is walked, both ways.

For each row with conditions, each of them is broken in turn and the field is refused; with all of them met it is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftcli.build import resume
from ftcli.build.checks import field_needs
from ftcli.build.checks.field_checks import choices_of
from ftcli.build.resolve import resolved, spec_of
from ftcli.config.compose import Request, compose
from ftcli.core.errors import ConfigError
from ftcli.methods import all_methods
from ftcli.runs import rundir
from ftcli.settings.fields.field_row import HELD_OUT, FieldRow
from ftcli.settings.fields.field_table import OWN, row_of
from ftcli.settings.library_fields import TRAINING_ARGUMENTS, Field, fields_of
from ftcli.settings.limits import LIMITS

ROWS = "rows.jsonl"
OF_METHOD = {
    "distillation": ("method.teacher_model=builtin:tiny",),
}
SOME = {
    "method.judge": "{type: fixed}", "method.reward_model": "builtin:tiny", "method.kl_target": "1.0",
    "train.fsdp": "full_shard", "train.deepspeed": "zero.json", "data.mix": "{a: {path: rows.jsonl}}",
}  # fmt: skip
"""A value of each setting of which any will do."""
OTHERS = {
    "train.eval_strategy": ("no",), "train.save_strategy": ("no", "epoch"), "train.logging_strategy": ("no",),
    "method.multi_objective_aggregation": ("normalize_then_sum",), "method.vllm_mode": ("server", "colocate"),
}  # fmt: skip
"""Words of each setting whose default may meet a condition."""
WRITTEN = {
    "train.optim_target_modules": "all-linear", "data.eval_group": "prompt",
    "quantisation.skip_modules": "[lm_head]", "data.mix_order": "concatenate",
}  # fmt: skip
"""What to write where a field's type does not say it."""


def conditioned() -> Iterator[tuple[str, str, Field | None, FieldRow]]:
    """Each row with conditions: a method whose config has the field, the setting, the field, and the row."""
    seen = set()
    for method in all_methods().values():
        shared = fields_of(TRAINING_ARGUMENTS)
        for name, field in fields_of(method.config).items():
            group = "train" if name in shared else "method"
            row = row_of(f"{group}.{name}", field)
            read = name not in method.without and name not in method.fixed
            owners = {each.owner for each in fields_of(method.config).values()}
            if row is None or not row.needs or not read or (row.configs and not owners & set(row.configs)):
                continue
            if (key := (f"{group}.{name}", row.needs)) not in seen:
                seen.add(key)
                yield method.name, f"{group}.{name}", field, row
    for name, row in OWN.items():
        if row.needs:
            yield "sft", name, None, row


CASES = list(conditioned())


def written(name: str, field: Field | None, row: FieldRow) -> str:
    """An override that writes a value of the field's type."""
    if name in WRITTEN or field is None:
        return f"{name}={WRITTEN.get(name) or ('float32' if name.endswith('dtype') else 2)}"
    kinds, words = set(re.findall(r"\w+", field.type_text)), choices_of(field, None, row)
    if words or not kinds & {"dict", "bool", "int", "float"}:
        return f"{name}={words[0] if words else 'text'}"
    limit = LIMITS.get(name)
    number = "0.5" if limit is not None and limit.high == 1 else "2"
    return f"{name}={'{}' if 'dict' in kinds else 'true' if 'bool' in kinds else number}"


def met(condition: str) -> list[str]:
    """Overrides under which a condition holds."""
    if condition.startswith("not "):
        return broken(condition.removeprefix("not "))
    name, sign, wanted = field_needs.split(condition)
    if name == HELD_OUT:
        return [f"data.path={ROWS}", "data.eval_share=0.5"]
    if name == "quantisation.type":
        return [f"quantisation={wanted.split('|')[0]}"]
    if sign == ">":
        return [f"{name}={0.5 if name == 'data.eval_share' else int(wanted) + 2}"]
    return [f"{name}={SOME[name] if wanted == '*' else wanted.split('|')[0].replace('galore_*', 'galore_adamw')}"]


def broken(condition: str, method: str = "") -> list[str]:
    """Overrides under which it does not hold."""
    if condition.startswith("not "):
        return met(condition.removeprefix("not "))
    name, _sign, wanted = field_needs.split(condition)
    if name == HELD_OUT:
        return [f"data.path={ROWS}"]
    if name == "method.beta":
        return ["method.beta=0"]
    if wanted == "true":
        return [f"{name}=false"]
    words = [word for word in OTHERS.get(name, ()) if word not in wanted.split("|")]
    if name == "method.loss_type":  # by default, DPO's is none of those that a condition names
        words = {"grpo": ["vespo"], "sft": ["dft"], "instruct": ["dft"], "pretrain": ["dft"]}.get(method, [])
    return [f"{name}={words[0]}"] if words and words[0] not in wanted else []


def told(method: str, *overrides: str) -> list[str]:
    """The problems of settings without effect."""
    composed = compose(Request(overrides=(f"method={method}", *OF_METHOD.get(method, ()), *overrides)))
    return [each.what for each in field_needs.problems(resolved(composed), composed)]


@pytest.fixture
def rows(here: Path) -> None:
    """Eight rows in the working directory, and an empty configuration of DeepSpeed."""
    text = "".join(json.dumps({"prompt": f"q{number}", "completion": "a"}) + "\n" for number in range(8))
    Path(ROWS).write_text(text, encoding="utf-8")
    Path("zero.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(("method", "name", "field", "row"), CASES, ids=[f"{case[1]}-{case[0]}" for case in CASES])
def test_a_field_is_refused_where_a_condition_fails_and_taken_where_all_hold(method, name, field, row, rows):
    word = written(name, field, row)
    good = [each for condition in row.needs for each in met(condition)]
    assert [what for what in told(method, *good, word) if what.startswith(f"{name} ")] == []
    for condition in row.needs:
        bad = [each for other in row.needs if other != condition for each in met(other)] + broken(condition, method)
        found = [what for what in told(method, *bad, word) if what.startswith(f"{name} ")]
        setting = "held-out rows" if HELD_OUT in condition else field_needs.split(condition)[0].removesuffix(".type")
        assert [setting in what for what in found] == [True], (condition, bad, found)


def test_what_nobody_wrote_is_no_doing_of_the_command_line(rows, problems):
    # The method is chosen on the command line, and method.use_vllm is not written anywhere.
    Path("r.yaml").write_text("ftcli: 1\nmethod:\n  vllm_server_timeout: 30\n", encoding="utf-8")
    [found] = problems("recipe=r.yaml", "method=grpo")
    assert "r.yaml:3" in found
    assert "read only with method.use_vllm=true" in found


def test_a_recipe_keeps_what_the_command_line_takes_the_ground_from(rows, problems):
    recipe = "ftcli: 1\ndata: {path: rows.jsonl, eval_share: 0.5}\ntrain: {num_train_epochs: 2, save_steps: 5}\n"
    Path("r.yaml").write_text(recipe + "run: {score_rows: 4}\n", encoding="utf-8")
    assert problems("recipe=r.yaml", "train.max_steps=3", "train.save_strategy=no", "data.eval_share=0") == []


def test_a_number_of_epochs_beside_a_number_of_steps_is_refused_in_one_layer(rows, problems):
    [found] = problems("train.num_train_epochs=2", "train.max_steps=3")
    assert found.startswith("train.num_train_epochs=2 ")
    assert "has no effect beside train.max_steps=3" in found
    Path("r.yaml").write_text("ftcli: 1\ntrain:\n  max_steps: 3\n", encoding="utf-8")
    [found] = problems("recipe=r.yaml", "train.num_train_epochs=2")
    assert "remove one of them" in found
    assert problems("recipe=r.yaml", "train.num_train_epochs=2", "~train.max_steps") == []


@pytest.mark.parametrize(
    ("started", "change", "reason"),
    [
        (["train.max_steps=3"], "train.num_train_epochs=2", "has no effect beside train.max_steps=3"),
        (["train.save_strategy=epoch"], "train.save_steps=5", "read only with train.save_strategy=steps"),
        (["train.eval_strategy=no"], "train.eval_steps=5", "read only with train.eval_strategy=steps"),
        (["train.logging_strategy=epoch"], "train.logging_steps=5", "read only with train.logging_strategy=steps"),
        (["train.save_strategy=no"], "train.save_total_limit=2", "read only with train.save_strategy"),
        ([], "train.save_steps=5.5", "neither a whole number of steps nor a share"),
        (["train.load_best_model_at_end=true", "train.save_strategy=epoch"], "train.save_strategy=steps",
         "needs an evaluation at each save"),
        ([f"data.path={ROWS}"], "train.eval_strategy=epoch", "needs held-out rows"),
    ],
)  # fmt: skip
def test_a_resumed_run_refuses_a_length_or_cadence_without_effect(started, change, reason, rows):
    run = Path("runs/old/1")
    run.mkdir(parents=True)
    spec = spec_of(Request(overrides=("method=sft", *started)))
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    assert resume.resumed_spec(run, []).train == spec.train
    with pytest.raises(ConfigError) as caught:
        resume.resumed_spec(run, [change])
    [problem] = caught.value.problems
    assert reason in problem.what
    assert problem.where in (change, str(run / rundir.SPEC))


def test_compiling_is_not_turned_off_and_on(problems):
    [found] = problems("train.torch_compile=false", "train.torch_compile_backend=eager")
    assert "train.torch_compile=false turns it off" in found
    assert problems("train.torch_compile_backend=eager") == []


def test_a_router_that_is_not_there_may_be_weighed_with_zero(problems):
    assert problems("method=kto", "method.router_aux_loss_coef=0.0") == []
    [found] = problems("method=kto", "method.router_aux_loss_coef=0.1")
    assert "this model has no experts" in found


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["data.split=train"], "data.split does not apply to builtin:tiny"),
        (["data.columns={prompt: question}"], "data.columns does not apply to builtin:tiny"),
        (["model.revision=main"], "model.revision does not apply to the folder builtin:tiny"),
        ([f"data.path={ROWS}", "run.score_rows=4"], "run.score_rows scores held-out rows, and there are none"),
        (["method=ppo", "method.judge={}"], "method.judge={} has no effect"),
    ],
)
def test_settings_of_ours_without_effect_are_refused(words, reason, rows, problems):
    assert any(reason in found for found in problems(*words))
