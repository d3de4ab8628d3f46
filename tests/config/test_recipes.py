"""A recipe from a stranger is data: what could reach code, the environment or other files is refused with its line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config import recipe_file as recipes
from ftcli.config.compose import Request
from ftcli.core import assets
from ftcli.core.errors import ConfigError
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec

HEAD = "ftcli: 1\ndefaults:\n  - method: sft\n"
OUTSIDE_FIX = "--allow-path"


def write(text: str, path: str = "r.yaml") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        ("hydra:\n  run: {dir: x}\n", 4, "hydra configures Hydra"),
        ("hydra:\n  callbacks: {x: {_target_: os.system}}\n", 4, "hydra configures Hydra"),
        ("hydra/launcher: joblib\n", 4, "hydra/launcher configures Hydra"),
        ("_target_: os.system\n", 4, "_target_ configures Hydra"),
        ("method:\n  _target_: os.system\n", 5, "_target_ configures Hydra"),
        ("train:\n  lr_scheduler_kwargs:\n    deep: [{_target_: os.system}]\n", 6, "_target_ configures Hydra"),
        ("train:\n  _partial_: true\n", 5, "_partial_ configures Hydra"),
        ("model@x: 1\n", 4, "model@x configures Hydra"),
        ("train:\n  lr_scheduler_kwargs: {'a@b': 1}\n", 5, "a@b configures Hydra"),
        ("defaults_list: []\n", 4, "not a key of a recipe"),
        ("# @package _global_\n", 4, "package headers"),
        ("   #   @package foo\n", 4, "package headers"),
        ("run: {name: '${oc.env:HOME}'}\n", 4, "resolver"),
        ("run: {name: '${now:%Y}'}\n", 4, "resolver"),
        ("run: {name: '${hydra:job.name}'}\n", 4, "resolver"),
        ("run: {name: '${oc.env:${seed}}'}\n", 4, "resolver"),
        ("run: {name: '${.dir}'}\n", 4, "resolver"),
        ("train:\n  lr_scheduler_kwargs: {x: ['${oc.decode:1}']}\n", 5, "resolver"),
        ("data: {path: '${oc.env:HOME}/x.json'}\n", 4, "resolver"),
        ("run: {name: '$HOME'}\n", 4, "not a plain name"),
        ("seed: !!python/object/apply:os.system ['true']\n", 4, "YAML tag"),
        ('data: {path: "a\\0.json"}\n', 4, "which text may not contain"),
    ],
)
def test_a_recipe_reaches_neither_hydra_nor_code_nor_the_environment(problems, here, body, line, reason):
    write(HEAD + body)
    found = problems("recipe=r.yaml")
    assert found[0].startswith(f"r.yaml:{line}  ")
    assert reason in found[0]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("- override model: llama", "override model is not a group"),
        ("- optional model: llama", "optional model is not a group"),
        ("- model@train: llama", "model@train is not a group"),
        ("- /model: llama", "/model is not a group"),
        ("- hydra/launcher: joblib", "hydra/launcher is not a group"),
        ("- model: ../../secret", "not a choice of model"),
        ("- model: ${run.name}", "not a choice of model"),
        ("- model: [llama, qwen]", "needs the name of a choice"),
        ("- {model: tiny, peft: lora}", "is not `group: choice`"),
        ("- _self_", "is not `group: choice`"),
        ("- model: lama", "did you mean model=llama?"),
    ],
)
def test_defaults_name_choices_and_nothing_else(problems, here, entry, reason):
    write(f"ftcli: 1\ndefaults:\n  {entry}\n")
    [found] = problems("recipe=r.yaml")
    assert found.startswith("r.yaml:3  ")
    assert reason in found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("defaults: []\n", "add the line `ftcli: 1`"),
        ("ftcli: 2\n", "not a known schema"),
        ("ftcli: '1'\n", "not a known schema"),
        ("ftcli: true\n", "not a known schema"),
        ("ftcli: 1\ndefaults: {method: sft}\n", "defaults is not a list"),
        ("ftcli: 1\ndata: tiny\n", "write `- data: tiny` under `defaults:`"),
        ("ftcli: 1\ndefaults: [{model: tiny}, {model: llama}]\n", "model is chosen twice"),
    ],
)
def test_the_shape_of_a_recipe_is_checked(problems, here, text, reason):
    write(text)
    [found] = problems("recipe=r.yaml")
    assert reason in found


def test_a_group_with_nothing_left_below_it_says_nothing(problems, here):
    write(HEAD + "train:\n#  learning_rate: 1e-4\npeft:\n")
    assert problems("recipe=r.yaml") == []


def test_all_faults_of_a_recipe_are_told_at_once(problems, here):
    write("ftcli: 1\ndefaults:\n  - modl: llama\nhydra: {}\ntrian: {}\ndata: {path: ../x.json}\n")
    assert [found.split("  ")[0] for found in problems("recipe=r.yaml")] == [
        "r.yaml:4", "r.yaml:5", "r.yaml:3", "r.yaml:6",
    ]  # fmt: skip


# --- paths ----------------------------------------------------------------------------------------------------------


def test_paths_of_a_recipe_are_relative_to_it_and_not_to_the_working_directory(here):
    write('{"text": "a"}\n', "shared/rows.jsonl")
    write(HEAD + "data: {path: rows.jsonl}\n", "shared/r.yaml")
    spec = spec_of(Request(overrides=("recipe=shared/r.yaml",)))
    assert spec.data.path == str((here / "shared/rows.jsonl").resolve())


@pytest.mark.parametrize(
    "setting",
    [
        "data: {path: ../rows.jsonl}",
        "data: {path: /etc/rows.jsonl}",
        "data: {path: ~/rows.jsonl}",
        "data: {eval_path: ../rows.jsonl}",
        "data: {path: sub/../../rows.jsonl}",
        "data: {path: link/rows.jsonl}",
        "model: {name_or_path: ../model}",
        "model: {name_or_path: nowhere/../../model}",
        "run: {dir: /tmp/elsewhere}",
        "train: {deepspeed: ../ds.json}",
        "train: {fsdp_config: /etc/fsdp.json}",
    ],
)
def test_a_path_outside_the_recipes_folder_needs_the_flag_that_the_error_prints(problems, here, setting):
    write('{"text": "a"}\n', "rows.jsonl")
    (here / "shared/sub").mkdir(parents=True)
    (here / "shared/link").symlink_to(here)  # inside by name, outside in truth
    write(f"{HEAD}{setting}\n", "shared/r.yaml")
    [found] = problems("recipe=shared/r.yaml")
    assert found.startswith("shared/r.yaml:4  ")
    assert "points outside the recipe's folder" in found
    assert "allow it with --allow-path" in found
    allowed = problems("recipe=shared/r.yaml", grants=frozenset({"--allow-path"}))
    assert not any("leaves" in problem for problem in allowed)


def test_a_reference_cannot_assemble_a_path_behind_the_guard(problems, here):
    shutil.copytree(assets.CONFIGS, here / "outside")
    write(HEAD + f"model:\n  licence: {here}/outside\n  name_or_path: ${{model.licence}}\n", "shared/r.yaml")
    [found] = problems("recipe=shared/r.yaml")
    # Taken literally, as every path is: a folder of that very name beside the recipe.
    assert f"{here}/shared/${{model.licence}} holds no model" in found


def test_on_the_command_line_a_path_needs_no_flag(problems, here):
    write('{"text": "a"}\n', "rows.jsonl")
    write(HEAD, "shared/r.yaml")
    assert problems("recipe=shared/r.yaml", "data.path=rows.jsonl") == []
    assert problems("recipe=shared/r.yaml", f"data.path={here}/rows.jsonl") == []


# --- grants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "override", "flag"),
    [
        ("model: {trust_remote_code: true}", "model.trust_remote_code=true", "--trust-remote-code"),
        ("model: {attn_implementation: evil/kernel}", "model.attn_implementation=evil/kernel", "--trust-remote-code"),
        ("train: {push_to_hub: true}", "train.push_to_hub=true", "--push-to-hub"),
        ("train: {hub_model_id: someone/else}", "train.hub_model_id=someone/else", "--push-to-hub"),
        ("train: {trackio_space_id: someone/else}", "train.trackio_space_id=someone/else", "--push-to-hub"),
    ],
)
def test_code_and_uploads_are_granted_on_the_command_line_only(problems, here, setting, override, flag):
    write(f"{HEAD}{setting}\n")
    [found] = problems("recipe=r.yaml")
    assert found.startswith("r.yaml:4  ")
    assert f"grant it on the command line with {flag}" in found

    def ungranted(*words: str, **request: Any) -> list[str]:
        return [problem for problem in problems(*words, **request) if "grant it" in problem]

    assert ungranted("recipe=r.yaml", grants=frozenset({flag})) == []
    other = {"--trust-remote-code", "--push-to-hub", "--allow-path"} - {flag}
    assert len(ungranted("recipe=r.yaml", grants=frozenset(other))) == 1
    assert ungranted(override) == []


def test_a_value_that_became_a_grant_by_reference_is_none(problems, here):
    write(HEAD + "model: {trust_remote_code: '${train.bf16}'}\ntrain: {bf16: true}\n")
    [found] = problems("recipe=r.yaml")
    assert "--trust-remote-code" in found


@pytest.mark.parametrize("setting", ["train: {hub_token: hf_x}", "peft: {auto_mapping: {parent_library: os}}"])
def test_what_nobody_may_set_has_no_flag(problems, here, setting):
    write(f"ftcli: 1\ndefaults:\n  - peft: lora\n{setting}\n")
    [found] = problems("recipe=r.yaml", grants=frozenset({"--trust-remote-code", "--push-to-hub"}))
    assert "is refused" in found


# --- limits ---------------------------------------------------------------------------------------------------------


def test_an_alias_bomb_ends_as_an_error_at_once(problems, here):
    levels = ["  a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    levels += [f"  a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    write(HEAD + "train:\n" + "\n".join(levels))
    [found] = problems("recipe=r.yaml")
    assert "once aliases are expanded" in found


def test_numbers_of_thousands_of_digits_are_told_and_not_read(problems, here):
    write(HEAD + "seed: 1" + "0" * 5000 + "\n")
    [found] = problems("recipe=r.yaml")
    assert "seed is inf" in found
    [found] = problems("seed=1" + "0" * 5000)
    assert "cannot be read" in found
    assert len(found) < 1000


def test_a_recipe_that_is_no_file_is_named(problems, here):
    Path("folder").mkdir()
    for name in ("folder", "nowhere.yaml", "demmo", "x" * 5000, "~nobody/r.yaml"):
        [found] = problems(f"recipe={name}")
        assert found.startswith("recipe=")
    assert "did you mean recipe=demo?" in problems("recipe=demmo")[0]


# --- group files of the user's --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path: builtin:tiny\n_target_: os.system\n", "_target_ configures Hydra"),
        ("# @package _global_\npath: builtin:tiny\n", "package headers"),
        ("defaults: [{override /model: llama}]\n", "a group file holds only settings"),
        ("format: ${oc.env:HOME}\n", "resolver"),
        ("path: &a [1]\npath: *a\n", "is set here and on line 1"),
        ("path: ../../rows.jsonl\n", "points outside its --config-dir"),
        ("pth: x\n", "did you mean data.path?"),
        ("- a\n", "not a mapping"),
    ],
)
def test_group_files_of_the_user_pass_the_same_guards(problems, here, text, reason):
    write(text, "conf/data/mine.yaml")
    found = problems("data=mine", config_dirs=(here / "conf",))
    assert len(found) == 1, found
    assert found[0].startswith(f"{here}/conf/data/mine.yaml:")
    assert reason in found[0]


def test_group_files_of_the_user_join_the_choices_and_may_replace_them(here):
    write('{"text": "a"}\n', "conf/rows.jsonl")
    write("path: ../rows.jsonl\nmax_rows: 7\n", "conf/data/mine.yaml")
    write("name: lora\nr: 3\n", "conf/peft/lora.yaml")
    spec = spec_of(Request(overrides=("data=mine", "peft=lora"), config_dirs=(here / "conf",)))
    assert (spec.data.path, spec.data.max_rows) == (str(here / "conf/rows.jsonl"), 7)
    assert spec.peft["r"] == 3


def test_a_group_file_cannot_grant_itself_anything(problems, here):
    write("name_or_path: builtin:tiny\ntrust_remote_code: true\n", "conf/model/mine.yaml")
    [found] = problems("model=mine", config_dirs=(here / "conf",))
    assert "--trust-remote-code" in found


def test_a_group_file_names_no_method_or_adapter_that_the_code_lacks(problems, here):
    write("name: lora\nr: 3\n", "conf/peft/mine.yaml")
    write("name: base\n", "conf/method/base.yaml")
    for word in ("peft=mine", "method=base"):
        [found] = problems(word, config_dirs=(here / "conf",))
        assert "for these settings" in found


# --- precedence, and recipes that last ------------------------------------------------------------------------------


def test_the_command_line_goes_over_the_recipe_and_the_recipe_over_the_groups(here):
    def rate(*overrides: str) -> tuple[object, object]:
        spec = spec_of(Request(overrides=overrides))
        return spec.peft.get("r"), spec.train["logging_steps"]

    write("ftcli: 1\ndefaults:\n  - peft: lora\npeft: {r: 8}\ntrain: {logging_steps: 3}\n")
    assert rate("peft=lora") == (16, 10)  # configs/peft/lora.yaml and configs/train/default.yaml
    assert rate("recipe=r.yaml") == (8, 3)
    assert rate("recipe=r.yaml", "peft.r=4") == (4, 3)
    assert rate("peft.r=4", "recipe=r.yaml", "train.logging_steps=5") == (4, 5)  # wherever it stands on the line


def test_a_choice_on_the_command_line_goes_over_that_of_the_recipe(here):
    write("ftcli: 1\ndefaults:\n  - method: dpo\n  - peft: lora\n")
    assert spec_of(Request(overrides=("recipe=r.yaml",))).choices["method"] == "dpo"
    spec = spec_of(Request(overrides=("recipe=r.yaml", "method=sft")))
    assert (spec.choices["method"], spec.choices["peft"]) == ("sft", "lora")


@pytest.mark.parametrize("name", sorted(assets.recipes()))
def test_every_shipped_recipe_composes(problems, here, name):
    known = {"data.path", "data.eval_path", "model.name_or_path"}
    if (wanted := pipeline_request(Request(overrides=(f"recipe={name}",)))) is not None:
        assert [each.stage for each in pipeline_spec(wanted).stages] == list(wanted.pipeline.stages)
        return
    for problem in problems(f"recipe={name}"):
        # A recipe may leave the file or the run to start from to whoever uses it; nothing else may be missing.
        assert any(setting in problem or "does not exist" in problem for setting in known), problem


def test_old_names_are_read_and_told_by_their_line(monkeypatch, here):
    monkeypatch.setattr(recipes, "SCHEMA_VERSION", 2)
    renames = {"train.lr": "train.learning_rate", "peft.rank": "peft.r", "peft=low_rank": "peft=lora"}
    monkeypatch.setattr(recipes, "RENAMES", {2: renames})
    write("ftcli: 1\ndefaults:\n  - peft: low_rank\ntrain:\n  lr: 0.5\npeft:\n  rank: 8\n")
    spec = spec_of(Request(overrides=("recipe=r.yaml",)))
    assert (spec.train["learning_rate"], spec.peft["r"]) == (0.5, 8)
    write("ftcli: 1\ndefaults:\n  - peft: low_rank\npeft:\n  rank: 0\n")
    with pytest.raises(ConfigError, match=r"r\.yaml:5  peft\.r=0 is out of range"):
        spec_of(Request(overrides=("recipe=r.yaml",)))
    write("ftcli: 2\ntrain: {lr: 0.5}\n")  # written after the renaming: the old name is a mistake
    with pytest.raises(ConfigError, match=r"train\.lr is not an option"):
        spec_of(Request(overrides=("recipe=r.yaml",)))


def test_every_rename_leads_to_a_name_of_today():
    for table in recipes.RENAMES.values():
        for new in table.values():
            group = new.replace("=", ".").split(".")[0]
            assert group in recipes.TOP_LEVEL
