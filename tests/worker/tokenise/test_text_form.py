"""Text pairs and prompts: read as the turns that will be served, unless `data.template=none` leaves them bare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ftcli import tiny
from ftcli.core.errors import ConfigError
from ftcli.methods import all_methods, get_method
from ftcli.settings.groups import DataSettings
from ftcli.worker.inference.examples import prompt_of
from ftcli.worker.inference.metrics import question
from ftcli.worker.models.load import make_encoder
from ftcli.worker.tokenise.dataset import Prepared, prepare
from ftcli.worker.tokenise.encoder import IGNORED, Encoder
from ftcli.worker.tokenise.length_limits import Fitting
from tests.worker.conftest import write_rows

ASKED, GOOD, BAD = "What is 2 plus 3?", "5", "6"
ROWS: dict[str, dict[str, Any]] = {
    "pair": {"prompt": ASKED, "completion": GOOD},
    "messages": {"prompt": ASKED, "completion": GOOD},
    "preference": {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
    "label": {"prompt": ASKED, "completion": GOOD, "label": True},
    "prompt": {"prompt": ASKED, "answer": GOOD},
}
"""A row of text for each dataset type that a method prefers."""
TEXT_PAIRED = [name for name in all_methods() if get_method(name).kinds[0] in ROWS]
THROUGH, BARE = "through the tokenizer's chat template", "as bare text: "


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(tiny.MODEL_DIR))


@pytest.fixture(scope="module")
def base() -> Encoder:
    """The encoder of a model without a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.MODEL_DIR)
    tokenizer.chat_template = None
    return Encoder(tokenizer)


def prepared(encoder: Encoder, method: str, folder: Path, rows: list[dict[str, Any]], **data: Any) -> Prepared:
    path = str(write_rows(folder / "rows.jsonl", rows))
    settings = DataSettings(path=path, eval_path=path, **data)
    return prepare(settings, get_method(method), encoder, Fitting(128, "drop"), seed=0, num_score_rows=1)


def prompt_tokens(row: dict[str, Any]) -> list[int]:
    """What the model reads before the answer."""
    if "prompt_ids" in row:
        return list(row["prompt_ids"])
    return [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORED]


def served(encoder: Encoder) -> list[int]:
    """What `generate` and `chat` send for the question."""
    turns = [{"role": "user", "content": ASKED}]
    ids = encoder.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert ids == encoder.prompt_ids(turns)
    return list(ids)


def test_every_method_but_pretraining_reads_some_form_of_text_pair():
    assert set(all_methods()) - set(TEXT_PAIRED) == {"pretrain"}


@pytest.mark.parametrize("method", TEXT_PAIRED)
def test_the_prompt_that_is_trained_is_the_prompt_that_is_served(method, encoder, tmp_path):
    found = prepared(encoder, method, tmp_path, [ROWS[get_method(method).kinds[0]]])
    expected = served(encoder)
    for rows in (found.train, found.held_out):
        # sft trains the answer's end token last; the template writes a line break after it, which is only read
        assert prompt_tokens(rows[0])[: len(expected)] == expected
    [example] = found.score_examples
    assert encoder.prompt_ids(prompt_of(example)) == expected  # what the method's own metric asks
    assert found.ledger()["train"]["text_forms"] == {THROUGH: 1}
    asked = question(example)
    assert asked is None or asked[1]["content"] == GOOD


@pytest.mark.parametrize("method", [name for name in TEXT_PAIRED if not get_method(name).refuses_bare])
@pytest.mark.parametrize("why", ["data.template=none", "the tokenizer has no chat template"])
def test_text_stays_bare_on_request_and_without_a_template(method, why, encoder, base, tmp_path):
    asked = {"template": "none"} if "none" in why else {}
    fresh = Encoder((encoder if asked else base).tokenizer)  # has rendered no template yet
    found = prepared(fresh, method, tmp_path, [ROWS[get_method(method).kinds[0]]], **asked)
    bare = encoder.tokenizer(ASKED)["input_ids"]
    assert prompt_tokens(found.train[0]) == bare
    assert prompt_tokens(found.held_out[0]) == bare
    assert found.ledger()["train"]["text_forms"] == {BARE + why: 1}
    assert found.ledger()["template"] is None


def test_a_method_that_refuses_bare_text_refuses_a_model_without_a_template(base, tmp_path):
    with pytest.raises(ConfigError, match="no chat template"):
        prepared(base, "instruct", tmp_path, [ROWS["pair"]])


def test_both_answers_of_a_preference_are_the_assistants(encoder, tmp_path):
    [row] = prepared(encoder, "dpo", tmp_path, [ROWS["preference"]]).train
    decode = encoder.tokenizer.decode
    assert (decode(row["chosen_ids"]), decode(row["rejected_ids"])) == (" 5<|im_end|>", " 6<|im_end|>")


def test_two_texts_without_a_prompt_column_stay_bare_since_the_answer_may_begin_inside_the_shared_text(
    encoder, tmp_path
):
    row = {"chosen": f"{ASKED} I say {GOOD}", "rejected": f"{ASKED} I say {BAD}"}
    found = prepared(encoder, "dpo", tmp_path, [row])
    assert encoder.tokenizer.decode(found.train[0]["prompt_ids"]) == f"{ASKED} I say"
    [about] = found.ledger()["train"]["text_forms"]
    assert about == BARE + "without a prompt column, a row does not say where its answer begins"


def test_rewards_see_the_prompt_as_the_row_has_it(encoder, tmp_path):
    row = {**ROWS["prompt"], "chosen": "a column of its own"}
    found = prepared(encoder, "grpo", tmp_path, [row], format="prompt")
    assert prompt_tokens(found.train[0]) == served(encoder)
    assert json.loads(found.train[0]["row"]) == row


def test_rows_of_turns_and_plain_text_are_as_they_were(encoder, tmp_path):
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": GOOD}]
    of_turns = prepared(encoder, "sft", tmp_path, [{"messages": turns}])
    assert "text_forms" not in of_turns.ledger()["train"]
    plain = prepared(encoder, "pretrain", tmp_path, [{"text": ASKED}])
    assert encoder.tokenizer.decode(plain.train[0]["input_ids"]) == ASKED + "<|im_end|>"
    assert "text_forms" not in plain.ledger()["train"]


def test_each_set_of_a_mix_has_its_own_form(encoder, tmp_path):
    names = ("turns", "bare")
    files = {name: write_rows(tmp_path / f"{name}.jsonl", [ROWS["pair"]]) for name in names}
    mix = {"turns": {"path": str(files["turns"])}, "bare": {"path": str(files["bare"]), "template": "none"}}
    settings = DataSettings(path=None, mix=mix)
    found = prepare(settings, get_method("sft"), encoder, Fitting(128, "drop"), seed=0)
    forms = {each["name"]: each["text_forms"] for each in found.ledger()["train"]["sets"]}
    assert forms == {"turns": {THROUGH: 1}, "bare": {BARE + "data.template=none": 1}}
    lengths = sorted(len(row) for row in found.train["input_ids"])
    bare = len(encoder.tokenizer(ASKED + GOOD + "<|im_end|>")["input_ids"])
    assert lengths == [bare, len(served(encoder)) + 3]  # " 5", the end token, the line break after it


def test_a_stream_reads_text_as_a_stored_set_does(encoder, tmp_path):
    path = str(write_rows(tmp_path / "rows.jsonl", [ROWS["pair"]]))
    for template, expected in ("auto", served(encoder)), ("none", encoder.tokenizer(ASKED)["input_ids"]):
        settings = DataSettings(path=path, streaming=True, template=template)
        found = prepare(settings, get_method("sft"), encoder, Fitting(128, "drop"), seed=0)
        assert prompt_tokens(next(iter(found.train)))[: len(expected)] == expected


def test_the_built_in_model_is_read_like_any_other():
    from ftcli.settings.groups import ModelSettings

    assert make_encoder(ModelSettings()).has_template
