"""A configuration of each tool becomes a recipe that passes every check, with every key in exactly one list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ftcli.cli.jobs.imported import imported
from ftcli.config.conversion import LISTS, Conversion, convert, tracker_keys
from ftcli.core.errors import ConfigError
from ftcli.core.exit_codes import EXIT_CONFIG, EXIT_DONE
from tests.config.conversion import configurations

TOOLS = list(configurations.FILES)


def written(text: str, name: str = "theirs.yaml") -> Path:
    """A file with this text in the working directory."""
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def of_tool(tool: str) -> Conversion:
    """The configuration of a tool, converted."""
    name, text = configurations.FILES[tool]
    return convert(written(text, name))


def recipe_of(found: Conversion) -> dict:
    """The recipe as data, with the choices as one mapping."""
    data = yaml.safe_load(found.recipe)
    data["defaults"] = {key: value for each in data["defaults"] for key, value in each.items()}
    return data


def keys_in(value: object, path: str = "") -> list[str]:
    """Every key of every mapping, as the account writes it."""
    found: list[str] = []
    if isinstance(value, dict):
        for key, item in value.items():
            here = f"{path}.{key}" if path else str(key)
            found += [here, *keys_in(item, here)]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += keys_in(item, f"{path}[{index}]")
    return found


def entry(found: Conversion, key: str) -> tuple[str, str, str]:
    """The list of a key, what it became, and why."""
    [one] = [each for each in found.account.entries if each.key == key]
    return one.list, one.after, one.why


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tool_is_recognised_and_every_key_stands_in_one_list(tool, here):
    found = of_tool(tool)
    assert found.tool == tool
    account = found.account
    assert {each.list for each in account.entries} <= set(LISTS)
    keys = [each.key for each in account.entries]
    assert len(keys) == len(set(keys))
    if tool != "ms_swift":
        assert sorted(keys) == sorted(keys_in(yaml.safe_load(configurations.FILES[tool][1])))
    assert sum(account.counts().values()) == len(keys)
    counts = account.counts()
    assert (counts["mapped"] + counts["changed"]) / len(keys) >= 0.85


@pytest.mark.parametrize("tool", TOOLS)
def test_the_recipe_passes_check_and_plan(tool, here):
    name, text = configurations.FILES[tool]
    found = imported(written(text, name))
    assert not found.problems


def test_llama_factory(here):
    recipe = recipe_of(found := of_tool("llama_factory"))
    assert recipe["defaults"] == {"method": "sft", "peft": "lora", "quantisation": "nf4_double"}
    assert list(recipe["data"]["mix"]) == ["identity", "alpaca_en_demo"]
    assert recipe["data"]["max_length_tokens"] == 2048  # cutoff_len, which the file leaves to its default
    assert recipe["peft"] == {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}
    assert recipe["train"]["warmup_steps"] == 0.1
    assert ("data.max_length_tokens", "2048", "LLaMA-Factory's default (cutoff_len)") in found.account.written_out
    assert entry(found, "trust_remote_code")[0] == "not_carried"
    assert entry(found, "use_liger_kernle") == ("not_carried", "", "LLaMA-Factory knows no such argument, and stops")
    assert entry(found, "template")[1] == "model.chat_template=qwen3_instruct_2507"  # qwen3 would write empty thoughts


def test_llama_factory_reads_the_users_own_register_of_sets(here):
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(
        json.dumps({"mine": {"file_name": "mine.json", "columns": {"prompt": "ask", "response": "say"}}})
    )
    Path("data/mine.json").write_text(json.dumps([{"ask": "2+2?", "say": "4"}] * 8))
    text = configurations.LLAMA_FACTORY.replace("identity,alpaca_en_demo", "mine")
    found = imported(written(text))
    data = recipe_of(found.conversion)["data"]
    assert data["path"] == "data/mine.json"
    assert data["columns"] == {"instruction": "ask", "output": "say"}
    assert not found.conversion.account.waits_for
    assert not found.problems


def test_axolotl(here):
    recipe = recipe_of(found := of_tool("axolotl"))
    assert recipe["defaults"] == {"method": "sft", "peft": "lora", "quantisation": "nf4_double"}
    assert recipe["data"]["mix"] == {
        "alpaca_2k_test": {"path": "mhenrichsen/alpaca_2k_test", "split": "train", "share_of_set": 0.1},
        "finetome_100k": {"path": "mlabonne/FineTome-100k"},
    }
    assert recipe["data"]["eval_share"] == 0.05
    assert recipe["method"]["packing"] is True
    # four measurements in each of two epochs: one each eighth of the run
    assert (recipe["train"]["eval_strategy"], recipe["train"]["eval_steps"]) == ("steps", 0.125)
    assert recipe["train"]["save_strategy"] == "epoch"
    assert recipe["train"]["warmup_steps"] == 0.03
    assert entry(found, "context_parapllel_size")[::2] == ("silent", "Axolotl knows no such key, and ignores it")
    assert entry(found, "datasets[0].type")[0] == "changed"
    assert entry(found, "wandb_project")[0] == "mapped"
    assert entry(found, "special_tokens.pad_token")[0] == "changed"


def test_ms_swift(here):
    recipe = recipe_of(found := of_tool("ms_swift"))
    assert recipe["defaults"] == {"method": "sft", "peft": "lora"}
    assert recipe["data"]["mix"] == {"alpaca_gpt4": {"path": "vicgalle/alpaca-gpt4", "rows": 500}}
    assert recipe["train"]["gradient_accumulation_steps"] == 8  # $(expr 16 / 2)
    assert recipe["train"]["weight_decay"] == 0.1
    assert recipe["peft"]["lora_dropout"] == 0.05
    assert entry(found, "external_plugins")[0] == "not_carried"
    assert "names Python code" in entry(found, "external_plugins")[2]
    assert entry(found, "NPROC_PER_NODE")[0] == "changed"


def test_the_alignment_handbook(here):
    recipe = recipe_of(found := of_tool("trl"))
    assert recipe["defaults"] == {"method": "dpo", "peft": "none"}
    mix = recipe["data"]["mix"]
    assert mix == {
        "ultrafeedback_binarized": {
            "path": "HuggingFaceH4/ultrafeedback_binarized",
            "split": "train_prefs",
            "share_of_set": 0.5,
        }
    }
    assert recipe["method"]["beta"] == 0.01
    assert "dtype" not in recipe["model"]  # weights that train are held in float32
    assert entry(found, "torch_dtype")[0] == "changed"
    assert entry(found, "push_to_hub")[0] == "changed"
    assert recipe["run"]["name"] == "smol-dpo"


def test_torchtune(here):
    recipe = recipe_of(found := of_tool("torchtune"))
    assert recipe["defaults"] == {"method": "sft", "peft": "lora", "quantisation": "nf4"}
    assert recipe["model"]["name_or_path"] == "meta-llama/Meta-Llama-3.1-8B-Instruct"
    assert recipe["data"]["path"] == "yahma/alpaca-cleaned"
    assert recipe["peft"]["target_modules"] == ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert recipe["train"]["lr_scheduler_type"] == "cosine"
    assert recipe["train"]["max_grad_norm"] == 0.0  # torchtune clips only where it is told to
    assert entry(found, "dataset._component_")[0] == "changed"
    assert "trains prompts too" in entry(found, "dataset._component_")[2]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (configurations.AXOLOTL + "plugins: [my.code.Plugin]\n", "plugins"),
        (configurations.AXOLOTL.replace("type: alpaca", "type: my_module.transform"), "datasets[0].type"),
        (configurations.TORCHTUNE.replace("torch.optim.AdamW", "os.system"), "optimizer._component_"),
        (
            configurations.TORCHTUNE.replace("torchtune.datasets.alpaca_cleaned_dataset", "my.rows"),
            "dataset._component_",
        ),
        (configurations.LLAMA_FACTORY, "trust_remote_code"),
    ],
)
def test_code_is_refused_by_name(text, key, here):
    which, after, why = entry(convert(written(text)), key)
    assert (which, after) == ("not_carried", "")
    assert why.startswith("refused: ")


def test_a_tag_that_would_make_an_object_is_refused(here):
    with pytest.raises(ConfigError, match="has a YAML tag"):
        convert(written("base_model: !!python/name:os.system\nsequence_len: 5\n"))


def test_a_key_that_stands_twice_is_read_as_the_tool_reads_it(here):
    found = convert(written(configurations.AXOLOTL + "num_epochs: 5\n"))
    assert recipe_of(found)["train"]["num_train_epochs"] == 5
    again = [each for each in found.account.entries if each.key == "num_epochs"]
    assert [each.list for each in again] == ["silent", "mapped"]


def test_a_token_in_a_file_reaches_neither_recipe_nor_account(here, capsys):
    from ftcli.cli import main

    token = "hf_" + "a" * 30
    written(configurations.AXOLOTL + f"hub_token: {token}\nadam_beta1: {token}\n")
    assert main(["recipe", "import", "theirs.yaml"]) == EXIT_DONE
    shown = capsys.readouterr()
    assert token not in shown.out + shown.err


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "ms_swift"])
def test_no_value_of_a_stranger_ends_in_a_traceback(tool, here):
    data = yaml.safe_load(configurations.FILES[tool][1])
    for key in data:
        for odd in (True, -1, 2.5, "${a.b}", [], ["a", {"b": None}], {"a": {"b": [1, {"c": 2}]}}, 10**30):
            text = yaml.safe_dump({**data, key: odd})
            account = convert(written(text), tool).account
            assert sorted(each.key for each in account.entries) == sorted(keys_in(yaml.safe_load(text))), (key, odd)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("zero_optimization: {stage: 3}\n", "a configuration of DeepSpeed"),
        ("compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\n", "a configuration of accelerate"),
        ("model_name_or_path: x\nexport_dir: y\n", "merges an adapter"),
        ("model_name_or_path: x\ntemplate: qwen\ninfer_backend: vllm\n", "trains nothing"),
        ("a: 1\nb: 2\n", "a training of no tool that is known"),
        ("ftcli: 1\nseed: 1\n", "a recipe of ftcli already"),
    ],
)
def test_what_is_no_training_is_named(text, what, here):
    with pytest.raises(ConfigError, match=what) as refused:
        convert(written(text))
    assert refused.value.problems[0].fix


def test_two_tools_that_are_equally_likely_are_asked_for(here):
    with pytest.raises(ConfigError, match="may be of") as refused:
        convert(written("torch_dtype: bfloat16\nlearning_rate: 1.0\n"))
    assert "--from" in refused.value.problems[0].fix
    assert convert(written("torch_dtype: bfloat16\nlearning_rate: 1.0\n"), "trl").tool == "trl"


def test_a_setting_that_check_refuses_is_taken_out_and_named(here):
    text = configurations.AXOLOTL.replace("adamw_bnb_8bit", "adamw_bnb_8bit\nearly_stopping_patience: 3")
    text = text.replace("val_set_size: 0.05", "val_set_size: 0")
    found = imported(written(text))
    assert not found.problems
    which, _, why = entry(found.conversion, "early_stopping_patience")
    assert which == "not_carried"
    assert why.startswith("ftcli check: ")


def test_the_command_writes_a_new_file_and_never_over_one(here, capsys):
    from ftcli.cli import main

    name, text = configurations.FILES["torchtune"]
    written(text, name)
    assert main(["recipe", "import", name, "--to", "ours.yaml"]) == EXIT_DONE
    shown = capsys.readouterr().out
    assert "the same here:" in shown
    assert "ftcli check and ftcli plan have nothing against the recipe" in shown
    assert main(["check", "recipe=ours.yaml"]) == EXIT_DONE
    assert main(["plan", "recipe=ours.yaml"]) == EXIT_DONE
    capsys.readouterr()
    before = Path("ours.yaml").read_bytes()
    assert main(["recipe", "import", name, "--to", "ours.yaml"]) == EXIT_CONFIG
    assert "nothing is overwritten" in capsys.readouterr().err
    assert Path("ours.yaml").read_bytes() == before


def test_the_recipe_is_stdout_and_the_account_stderr(here, capsys):
    from ftcli.cli import main

    name, text = configurations.FILES["axolotl"]
    written(text, name)
    assert main(["recipe", "import", name]) == EXIT_DONE
    shown = capsys.readouterr()
    assert yaml.safe_load(shown.out)["ftcli"] == 1
    assert "changed in meaning:" in shown.err
    assert main(["recipe", "import", name, "--json"]) == EXIT_DONE
    data = json.loads(capsys.readouterr().out)
    counts = data["account"]["counts"]
    assert counts["keys"] == sum(len(data["account"][name]) for name in LISTS)
    assert yaml.safe_load(data["recipe"])["ftcli"] == 1


def test_the_split_train_of_a_file_is_left_out_since_a_file_has_no_other(here):
    # Other tools call the whole of a file its split train; ftcli check refuses a split beside the name of a file.
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    settings = "dataset_name: rows.jsonl\ndataset_train_split: train\nuse_peft: true\nlearning_rate: 1e-4\n"
    found = convert(written(f"model_name_or_path: builtin:tiny\n{settings}"), "trl")
    assert recipe_of(found)["data"]["path"] == "rows.jsonl"
    assert "split" not in recipe_of(found)["data"]
    assert entry(found, "dataset_train_split") == ("mapped", "", "a file is one split")
    sets = (
        "datasets:\n  - {path: rows.jsonl, type: alpaca, split: train}\n  - {path: a/b, type: alpaca, split: train}\n"
    )
    mix = recipe_of(convert(written(f"base_model: builtin:tiny\nsequence_len: 64\n{sets}"), "axolotl"))["data"]["mix"]
    assert [each.get("split") for each in mix.values()] == [None, "train"]


def test_plain_text_of_trl_goes_through_no_chat_template_and_turns_do(here):
    Path("pairs.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    Path("turns.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    )
    text = "model_name_or_path: builtin:tiny\nuse_peft: true\nlearning_rate: 1e-4\ndataset_name: "
    settings = {
        name: recipe_of(imported(written(f"{text}{name}.jsonl\n"), "trl").conversion)["data"]
        for name in ("pairs", "turns")
    }
    assert settings["pairs"]["template"] == "none"
    assert "template" not in settings["turns"]


def test_a_template_that_ms_swift_names_is_kept(here):
    text = "swift sft --model builtin:tiny --dataset a/b --tuner_type lora --template chatml\n"
    found = convert(written(text, "theirs.sh"))
    assert entry(found, "template")[:2] == ("mapped", "model.chat_template=chatml")


def test_the_column_of_plain_text_in_a_register_is_text_here(here):
    Path("data").mkdir()
    entries = {"web": {"file_name": "web.jsonl", "columns": {"prompt": "text"}},
               "books": {"file_name": "books.jsonl", "columns": {"prompt": "content"}}}  # fmt: skip
    Path("data/dataset_info.json").write_text(json.dumps(entries))
    text = "model_name_or_path: builtin:tiny\nstage: pt\nfinetuning_type: lora\ndataset: web,books\n"
    mix = recipe_of(convert(written(text)))["data"]["mix"]
    assert [each.get("columns") for each in mix.values()] == [None, {"text": "content"}]


TRACKED = """\
base_model: HuggingFaceTB/SmolLM2-135M
datasets:
  - path: tatsu-lab/alpaca
    type: alpaca
wandb_project: phi3
wandb_name: first
wandb_watch: gradients
use_mlflow: true
mlflow_tracking_uri: https://mine
trackio_space_id:
"""


def test_trackers_that_are_installed_keep_the_curve_in_the_run(here, monkeypatch):
    monkeypatch.setattr(tracker_keys, "is_installed", lambda name: name == "wandb")
    recipe = recipe_of(found := convert(written(TRACKED)))
    assert recipe["run"]["trackers"] == ["wandb"]
    assert recipe["run"]["tracking"] == {"wandb": {"project": "phi3"}}
    assert entry(found, "wandb_project")[:2] == ("mapped", "run.tracking.wandb.project=phi3")
    assert entry(found, "wandb_name")[0] == "changed"
    assert entry(found, "trackio_space_id")[0] == "mapped"
    assert entry(found, "use_mlflow") == (
        "changed", "", "pip install 'ftcli[mlflow]', and add run.trackers=[mlflow], which keeps it in the run"
    )  # fmt: skip
    assert "on the command line, or with --allow-endpoint" in entry(found, "mlflow_tracking_uri")[2]


@pytest.mark.parametrize(
    ("value", "listed", "kept"),
    [
        ("none", "mapped", None),
        ("[wandb, tensorboard]", "changed", ["wandb", "tensorboard"]),
        ("tensorboard", "changed", ["tensorboard"]),
        ("swanlab", "changed", None),
        ("all", "changed", None),
        ("[wandb, mlflow]", "changed", ["wandb"]),
    ],
)
def test_report_to_becomes_trackers_of_the_run(value, listed, kept, here, monkeypatch):
    monkeypatch.setattr(tracker_keys, "is_installed", lambda name: name in ("wandb", "tensorboard"))
    text = f"model_name_or_path: a/b\ndataset_name: c/d\nreport_to: {value}\nlearning_rate: 1.0e-5\nuse_peft: true\n"
    found = convert(written(text))
    assert entry(found, "report_to")[0] == listed
    assert recipe_of(found).get("run", {}).get("trackers") == kept
    if value == "swanlab":
        assert "train.report_to=swanlab reports through transformers" in entry(found, "report_to")[2]
