"""`model.chat_template` and its variables: one template for training, its checkpoints, and all that comes after."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, GenerationConfig

from ftcli.core.errors import ConfigError
from ftcli.data.files.file_types import DataFile
from ftcli.data.row_ledger import Ledger
from ftcli.data.scan import Scan
from ftcli.methods import get_method
from ftcli.models.templates.chat_template import without_defaults
from ftcli.runs import rundir
from ftcli.settings.groups import ModelSettings, SetSettings
from ftcli.worker.commands.eval import evaluate
from ftcli.worker.commands.merge import merge
from ftcli.worker.commands.preview import preview
from ftcli.worker.inference.chat import speakers
from ftcli.worker.inference.reward_model import RewardModel
from ftcli.worker.models.load import load_tokenizer, make_encoder
from ftcli.worker.training.run import train
from tests.conftest import REPOSITORY
from tests.worker.conftest import LORA, write_rows

END = "<|endoftext|>"  # which is not the tokenizer's end token
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}{% if mood is defined and mood %} {{ mood }}{% endif %}]"
    "{{ m.content }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}[assistant{% if mood is defined and mood %} {{ mood }}{% endif %}]{% endif %}"
)
TURNS = [{"role": "user", "content": "Say red."}, {"role": "assistant", "content": "red"}]


@pytest.fixture
def template(tmp_path: Path) -> Path:
    file = tmp_path / "turns.jinja"
    file.write_text(TEMPLATE, encoding="utf-8")
    return file


def with_template(spec: Any, template: Path, **variables: Any) -> Any:
    model = replace(spec.model, chat_template=str(template), chat_template_kwargs=variables or None)
    return replace(spec, model=model)


def written(encoder: Any, row: dict[str, Any], tmp_path: Path, method: str = "sft") -> str:
    """The text of the tokens of a row."""
    file = write_rows(tmp_path / "one.jsonl", [row])
    files = [DataFile(path=str(file), name=file.name)]
    examples = list(Scan(files, SetSettings(path=str(file)), get_method(method), Ledger("", ""), has_template=True))
    [encoded] = encoder.encode(examples)
    return str(encoder.tokenizer.decode(encoded.columns.get("input_ids") or encoded.columns["prompt_ids"]))


def test_rows_are_rendered_by_the_template_with_its_variables_and_a_rows_own_go_first(models, template, tmp_path):
    settings = ModelSettings(name_or_path=str(models["llama"]), chat_template=str(template))
    plain = f"[user]Say red.{END}[assistant]red{END}"
    calm = f"[user calm]Say red.{END}[assistant calm]red{END}"
    assert written(make_encoder(settings), {"messages": TURNS}, tmp_path) == plain
    encoder = make_encoder(replace(settings, chat_template_kwargs={"mood": "calm"}))
    assert written(encoder, {"messages": TURNS}, tmp_path) == calm
    for own in ({"mood": "wild"}, '{"mood": "wild"}'):
        row = {"messages": TURNS, "chat_template_kwargs": own}
        assert written(encoder, row, tmp_path) == calm.replace("calm", "wild")
    pair = {"prompt": "Say red.", "completion": "red", "chat_template_kwargs": {"mood": ""}}
    assert written(encoder, pair, tmp_path) == plain
    prompt = {"prompt": "Say red.", "chat_template_kwargs": {"mood": "wild"}}
    assert written(encoder, prompt, tmp_path, "grpo") == f"[user wild]Say red.{END}[assistant wild]"


@pytest.mark.parametrize("peft", [{"name": "none"}, LORA], ids=["full", "lora"])
def test_what_was_trained_is_what_the_saved_model_serves(peft, template, sft_file, make_spec, new_run, tmp_path):
    train_settings = {"max_steps": 30, "learning_rate": 3e-2, "save_strategy": "steps", "save_steps": 15}
    spec = make_spec(sft_file, peft=peft, eval_share=0.25, run={"score_rows": 6}, train=train_settings)
    run = new_run(with_template(spec, template, mood="calm"), "run")
    result = train(run)
    assert result["ledger"]["template"]["from"] == f"model.chat_template={template}"
    assert result["ledger"]["template"]["variables"] == '{"mood": "calm"}'
    encoder = make_encoder(with_template(spec, template, mood="calm").model)
    expected = encoder.prompt_ids(TURNS[:1])
    template.unlink()  # from here on, only what the run saved is there
    for folder in (run / rundir.MODEL, run / rundir.CHECKPOINTS / "checkpoint-15"):
        served = AutoTokenizer.from_pretrained(folder)
        assert without_defaults(served.chat_template) == (TEMPLATE, {"mood": "calm"})
        ids = served.apply_chat_template(TURNS[:1], add_generation_prompt=True, return_dict=False)
        assert ids == expected
        end = encoder.tokenizer.convert_tokens_to_ids(END)
        assert end in GenerationConfig.from_pretrained(folder).eos_token_id
    [speaker] = speakers({"model": str(run), "max_new_tokens": 16})
    assert speaker.encoder.prompt_ids(TURNS[:1]) == expected
    assert end in speaker.model.generation_config.eos_token_id
    found = evaluate({"run": str(run), "data": str(sft_file), "rows": 4, "model": str(run)})
    assert found["measured"]["eval_loss"] < result["eval_loss"]["before"]
    if peft is LORA:
        merge({"models": [str(run)], "to": str(tmp_path / "merged")})
        served = AutoTokenizer.from_pretrained(tmp_path / "merged")
        assert served.apply_chat_template(TURNS[:1], add_generation_prompt=True, return_dict=False) == expected
        assert end in GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id
        assert AutoPeftModelForCausalLM.from_pretrained(run / rundir.MODEL) is not None


def test_a_run_goes_on_with_the_template_of_the_one_that_it_starts_from(template, sft_file, make_spec, new_run):
    first = new_run(with_template(make_spec(sft_file, train={"max_steps": 1}), template, mood="calm"), "first")
    train(first)
    template.unlink()
    settings = ModelSettings(name_or_path=str(first))
    assert without_defaults(load_tokenizer(settings).chat_template)[1] == {"mood": "calm"}
    wild = load_tokenizer(replace(settings, chat_template_kwargs={"mood": "wild"}))
    assert without_defaults(wild.chat_template) == (TEMPLATE, {"mood": "wild"})


def test_a_reward_model_reads_the_template_that_it_was_trained_with(template, dpo_file, make_spec, new_run):
    spec = make_spec(dpo_file, method={"name": "reward"}, train={"max_steps": 1})
    run = new_run(with_template(spec, template, mood="calm"), "reward")
    train(run)
    judge = RewardModel(str(run), {})
    assert judge.encoder.tokenizer.decode(judge.encoder.prompt_ids(TURNS[:1])).startswith("[user calm]")


def test_a_preview_says_whose_template_it_shows(template, sft_file, make_spec):
    spec = with_template(make_spec(sft_file), template, mood="calm")
    *rows, about = preview({"spec": spec.to_json(), "rows": 1, "line": None})
    assert "[user calm]" in "".join(token[0] for token in rows[0]["sequences"][0]["tokens"])
    assert about["template"]["from"] == f"model.chat_template={template}"


def test_a_variable_that_the_template_does_not_read_is_refused_where_only_the_worker_knows_it(models):
    with pytest.raises(ConfigError, match="modd has no effect"):
        load_tokenizer(ModelSettings(name_or_path=str(models["llama"]), chat_template_kwargs={"modd": 1}))


def test_a_hostile_template_renders_nothing_in_the_worker_either(models, tmp_path):
    file = tmp_path / "hostile.jinja"
    file.write_text("{{ messages.__class__.__base__.__subclasses__() }}", encoding="utf-8")
    encoder = make_encoder(ModelSettings(name_or_path=str(models["llama"]), chat_template=str(file)))
    with pytest.raises(Exception, match="is unsafe"):
        written(encoder, {"messages": TURNS}, tmp_path)


RENDERS = {
    "models/templates/template_sandbox.py": "what a template may do in the front half",
    "models/templates/template_rendering.py": "the front half",
    "worker/tokenise/serving_parity.py": "the worker",
    "worker/measures/harness.py": "how lm-evaluation-harness, which renders by itself, is to go on after a prompt",
    "worker/inference/parity/served_folder.py": "what the tokenizer of a deployed folder says, which is compared",
}
"""The only places that render a template or say how; all others ask an encoder, or the front half's renderer."""


def test_one_place_in_each_half_renders_conversations():
    calls = {"render_jinja_template", "apply_chat_template", "from_string", "Template", "SandboxedEnvironment"}
    found = set()
    package = REPOSITORY / "ftcli"
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", None) or getattr(node, "id", None)
            if isinstance(node, ast.Attribute | ast.Name) and name in calls:
                found.add(path.relative_to(package).as_posix())
    assert found == set(RENDERS)
