"""What a check says of chat templates, their variables, base models and new tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.build.inputs.run_inputs import record
from ftcli.build.resolve import run_of, spec_of
from ftcli.config.compose import Request
from ftcli.core import assets
from ftcli.plan.outlook import trainable_parameters
from ftcli.runs import rundir

TURNS = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
PAIR = {"prompt": "a", "completion": "b"}
PREFERENCE = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.fixture
def place(here: Path) -> Path:
    for name, row in (("turns", TURNS), ("pairs", PAIR), ("preferences", PREFERENCE), ("text", {"text": "a"})):
        Path(f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 8, encoding="utf-8")
    return here


def model_folder(name: str, *, template: bool = False, drop: tuple[str, ...] = ()) -> str:
    """The built-in model without its chat template, and without tokens."""
    folder = Path(shutil.copytree(tiny.MODEL_DIR, name))
    if not template:
        (folder / "chat_template.jinja").unlink()
    for token in drop:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            text = (folder / file).read_text(encoding="utf-8")
            (folder / file).write_text(text.replace(token, token.replace("|", "!")), encoding="utf-8")
    return f"model=./{name}"


def test_the_headline_passes_as_typed(place: Path, problems: Any) -> None:
    assert problems("method=dpo", "model=llama", "data.path=preferences.jsonl") == []
    assert spec_of(Request(overrides=("model=llama",))).model.name_or_path == "meta-llama/Llama-3.1-8B-Instruct"


@pytest.mark.parametrize(
    "model",
    ["model=llama-base", "model.name_or_path=meta-llama/Llama-3.1-8B", "model=mistral-base", "model=gemma-base"],
)
def test_conversations_need_a_template_which_a_listed_base_has_not(model: str, place: Path, problems: Any) -> None:
    [problem] = problems(model, "data.path=turns.jsonl")
    assert "the rows are conversations" in problem
    short = {"model=mistral-base": "mistral", "model=gemma-base": "gemma"}.get(model, "llama")
    assert f"choose model={short}, or set model.chat_template=chatml" in problem
    assert "\"model.new_tokens=['<|im_start|>','<|im_end|>']\"" in problem
    assert problems(model, "data.path=pairs.jsonl") == []  # bare text
    assert problems(model, "data.path=text.jsonl") == []
    assert "method=instruct renders every row" in problems(model, "method=instruct", "data.path=pairs.jsonl")[0]
    assert problems(model, "data.path=turns.jsonl", "model.chat_template=chatml") == []
    assert problems("model=qwen-base", "data.path=turns.jsonl") == []  # a base with a template


def test_a_local_model_is_known_by_its_files(place: Path, problems: Any) -> None:
    [problem] = problems(f"{model_folder('bare')}".replace("model=", "model.name_or_path="), "data.path=turns.jsonl")
    assert "has no chat template" in problem
    assert "set model.chat_template=chatml" in problem
    assert "new_tokens" not in problem  # its vocabulary has them


def test_a_template_names_the_tokens_that_the_vocabulary_lacks(place: Path, problems: Any) -> None:
    model = model_folder("bare", drop=("<|im_start|>",)).replace("model=", "model.name_or_path=")
    words = (model, "data.path=turns.jsonl", "model.chat_template=chatml")
    [problem] = problems(*words)
    assert "writes <|im_start|>, which this model's tokenizer has no token for" in problem
    assert "\"model.new_tokens=['<|im_start|>']\"" in problem
    assert problems(*words, "model.new_tokens=['<|im_start|>']") == []


@pytest.mark.parametrize("marks", ["<|user|>\n", "### <|user|>: "])
def test_a_template_may_mark_turns_by_text_and_close_answers_with_the_end_token(
    marks: str, place: Path, problems: Any
) -> None:
    marked = "{% for m in messages %}{{ '" + marks.replace("\n", "\\n") + "' + m.content + eos_token }}{% endfor %}"
    Path("text.jinja").write_text(marked, encoding="utf-8")
    assert problems("data.path=turns.jsonl", "model.chat_template=text.jinja") == []
    Path("text.jinja").write_text(marked.replace("eos_token", "'<|end|>'"), encoding="utf-8")
    [problem] = problems("data.path=turns.jsonl", "model.chat_template=text.jinja")
    assert "writes <|user|>, <|end|>, which this model's tokenizer has no token for" in problem


@pytest.mark.parametrize("name", ["zephyr", "tulu"])
def test_the_shipped_templates_of_text_are_taken_by_a_base_without_their_marks(
    name: str, place: Path, problems: Any
) -> None:
    file = assets.RECIPES / "templates" / f"{name}.jinja"
    assert problems("data.path=turns.jsonl", f"model.chat_template={file}") == []


def test_a_template_file_is_checked_with_its_line(place: Path, problems: Any) -> None:
    Path("mine.jinja").write_text("{% for m in messages %}\n{{ m.content }}\n", encoding="utf-8")
    [problem] = problems("data.path=turns.jsonl", "model.chat_template=mine.jinja")
    assert problem.startswith(f"{place}/mine.jinja:")
    assert "the chat template is damaged" in problem
    assert "did you mean model.chat_template=chatml" in problems("model.chat_template=chatlm")[0]


@pytest.mark.parametrize("stated", ["{enable_thinkin: false}", "{messages: 1}"])
def test_a_variable_without_effect_is_refused(stated: str, place: Path, problems: Any) -> None:
    [problem] = problems("model=qwen", "model.chat_template=qwen3", f"model.chat_template_kwargs={stated}")
    assert "no effect" in problem or "no variable that can be set" in problem
    good = "model.chat_template_kwargs={enable_thinking: false}"
    assert problems("model=qwen", good) == []
    assert "does not read it" in problems(good)[0]  # the built-in template has no variables


def test_a_recipe_carries_a_template_beside_it(place: Path) -> None:
    Path("mine").mkdir()
    Path("mine/turns.jinja").write_text(
        "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", encoding="utf-8"
    )
    recipe = "ftcli: 1\ndefaults: [{method: sft}]\nmodel:\n  chat_template: %s\n"
    Path("mine/recipe.yaml").write_text(recipe % "turns.jinja", encoding="utf-8")
    spec = spec_of(Request(overrides=("recipe=mine/recipe.yaml",)))
    assert spec.model.chat_template == str(place / "mine" / "turns.jinja")
    record(spec, place)
    files = json.loads((place / rundir.INPUTS).read_text(encoding="utf-8"))["files"]
    assert files["model.chat_template:turns.jinja"]["path"] == str(place / "mine" / "turns.jinja")
    Path("mine/recipe.yaml").write_text(recipe % "qwen2_5", encoding="utf-8")
    assert spec_of(Request(overrides=("recipe=mine/recipe.yaml",))).model.chat_template == "qwen2_5"


def test_a_recipe_reaches_no_template_outside_of_its_folder(place: Path, problems: Any) -> None:
    Path("mine").mkdir()
    Path("turns.jinja").write_text("{{ messages }}", encoding="utf-8")
    text = "ftcli: 1\ndefaults: [{method: sft}]\nmodel:\n  chat_template: ../turns.jinja\n"
    Path("mine/recipe.yaml").write_text(text, encoding="utf-8")
    assert "points outside the recipe's folder" in problems("recipe=mine/recipe.yaml")[0]


def test_new_tokens_are_new_and_something_trains_them(place: Path, problems: Any) -> None:
    assert problems("model.new_tokens=['<call>']") == []
    assert "<|im_end|>, which the vocabulary has already" in problems("model.new_tokens=['<|im_end|>']")[0]
    assert "listed twice" in problems("model.new_tokens=['<a>','<a>']")[0]
    assert problems("model.new_tokens=['<call>']", "peft=lora") == []
    for peft in ("ia3", "freeze", "prompt"):
        assert f"which peft={peft} does not train" in problems("model.new_tokens=['<call>']", f"peft={peft}")[0]
    both = problems("model.new_tokens=['<call>']", "peft=lora", "peft.trainable_token_indices=[1]")
    assert "both say which rows" in both[0]


def test_the_plan_counts_the_rows_of_new_tokens(place: Path) -> None:
    def run(*words: str) -> Any:
        return run_of(Request(overrides=words))

    two = "model.new_tokens=['<a>','<b>']"
    width = run().shape.hidden_size
    # All parameters: the shared matrix has two more rows. LoRA: they are all that it trains of it.
    assert trainable_parameters(run(two)) == trainable_parameters(run()) + 2 * width
    assert trainable_parameters(run(two, "peft=lora")) == trainable_parameters(run("peft=lora")) + 2 * width
    llama = ("model=llama", "peft=lora")  # an output head of its own, 4096 wide
    assert trainable_parameters(run(*llama, two)) == trainable_parameters(run(*llama)) + 2 * 2 * 4096
