"""BOS and end tokens that a row already has get no second one, and other special tokens in a row are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ftcli import tiny
from ftcli.data.formats.registry import DATASET_TYPES
from ftcli.methods import get_method
from ftcli.plan import tokens
from ftcli.settings.groups import DataSettings, ModelSettings
from ftcli.worker.inference.examples import answered_of
from ftcli.worker.tokenise.dataset import Prepared, prepare
from ftcli.worker.tokenise.encoder import Encoded, Encoder
from ftcli.worker.tokenise.length_limits import Fitting
from tests.worker.conftest import write_rows

BOS, EOS, OTHER = "<|endoftext|>", "<|im_end|>", "<|im_start|>"
METHODS = {"text": "sft", "pair": "sft", "messages": "instruct", "preference": "dpo", "label": "kto", "prompt": "grpo"}
TEMPLATES = {"template": "auto", "bare": "none"}


def encoder_of(*, bos: bool, eos: bool, template: bool = True) -> Encoder:
    """The built-in tokenizer with a post-processor that adds a BOS token, an end token or both; its template writes
    the BOS token itself."""
    built_in = AutoTokenizer.from_pretrained(tiny.MODEL_DIR)
    backend = Tokenizer.from_str(built_in.backend_tokenizer.to_str())
    single = f"{BOS} $A" if bos else "$A"
    single = f"{single} {EOS}" if eos else single
    ids = [(token, backend.token_to_id(token)) for token in (BOS, EOS)]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token="<|pad|>", extra_special_tokens=[OTHER]
    )
    tokenizer.chat_template = "{{- bos_token -}}" + built_in.chat_template if template else None
    return Encoder(tokenizer)


def row_of(kind: str, before: str, inside: str, after: str) -> dict[str, Any]:
    """A row of text of a dataset type that begins, goes on and ends with the given texts."""
    asked, said = f"{before}red{inside} house", f"blue moon{after}"
    return {
        "text": {"text": f"{asked} {said}"},
        "pair": {"prompt": asked, "completion": said},
        "messages": {"prompt": asked, "completion": said},
        "preference": {"prompt": asked, "chosen": said, "rejected": f"green{after}"},
        "label": {"prompt": asked, "completion": said, "label": True},
        "prompt": {"prompt": asked, "answer": said},
    }[kind]


def prepared(encoder: Encoder, kind: str, row: dict[str, Any], folder: Path, template: str) -> Prepared:
    settings = DataSettings(path=str(write_rows(folder / "rows.jsonl", [row])), template=template)
    return prepare(settings, get_method(METHODS[kind]), encoder, Fitting(128, "drop"), seed=0)


def sequences(found: Prepared) -> list[list[int]]:
    """The token sequences of the only row, each to the end of its answer."""
    [row] = found.train
    return answered_of(Encoded(row, True)) if "row" not in row else [row["prompt_ids"]]


def count(encoder: Encoder, ids: list[int], token: str) -> int:
    return ids.count(encoder.tokenizer.convert_tokens_to_ids(token))


CASES = [(kind, form) for kind in DATASET_TYPES for form in TEMPLATES if (kind, form) != ("messages", "bare")]


@pytest.mark.parametrize(("kind", "form"), CASES)
@pytest.mark.parametrize("adds", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("written", ["", BOS])
def test_no_row_gets_a_second_bos_token(kind, form, adds, written, tmp_path):
    encoder = encoder_of(bos=adds[0], eos=adds[1])
    found = prepared(encoder, kind, row_of(kind, written, "", ""), tmp_path, TEMPLATES[form])
    templated = form == "template" and kind != "text"
    expected = 1 if templated or adds[0] or written else 0
    assert [count(encoder, ids, BOS) for ids in sequences(found)] == [expected] * len(sequences(found))
    assert all(ids[0] == encoder.tokenizer.bos_token_id for ids in sequences(found) if expected)
    assert "special token" not in found.ledger()["train"]["findings"]


@pytest.mark.parametrize(("kind", "form"), CASES)
@pytest.mark.parametrize("adds", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("written", ["", EOS, f"{EOS}\n", f"{EOS}  \n"])
def test_no_answer_gets_a_second_end_token(kind, form, adds, written, tmp_path):
    encoder = encoder_of(bos=adds[0], eos=adds[1])
    found = prepared(encoder, kind, row_of(kind, "", "", written), tmp_path, TEMPLATES[form])
    templated = form == "template" and kind != "text"
    # A prompt is continued, so nothing ends it; rendered, it has the end of the user's turn.
    expected = (1 if kind == "prompt" else 2) if templated else (0 if kind == "prompt" else 1)
    assert [count(encoder, ids, EOS) for ids in sequences(found)] == [expected] * len(sequences(found))
    assert kind == "prompt" or all(ids[-1] == encoder.tokenizer.eos_token_id for ids in sequences(found))
    assert "special token" not in found.ledger()["train"]["findings"]


@pytest.mark.parametrize(("kind", "form"), CASES)
@pytest.mark.parametrize("token", [BOS, EOS, OTHER])
def test_a_special_token_inside_a_text_is_reported_under_its_column(kind, form, token, tmp_path):
    encoder = encoder_of(bos=True, eos=False)
    found = prepared(encoder, kind, row_of(kind, "", token, ""), tmp_path, TEMPLATES[form])
    [first] = found.ledger()["train"]["findings"]["special token"]["first"]
    assert first["field"] == ("text" if kind == "text" else "prompt")
    assert f"contains the text {token}, which the tokenizer reads as a special token" in first["what"]
    assert ("data.template=none" in first["what"]) == (form == "template" and kind != "text")


def test_an_end_token_that_only_the_generation_config_names_is_not_doubled(tmp_path):
    encoder = encoder_of(bos=False, eos=False)
    more = Encoder(encoder.tokenizer, [encoder.tokenizer.convert_tokens_to_ids(BOS)])
    row = {"text": f"red house{BOS}"}
    [ids] = sequences(prepared(more, "text", row, tmp_path, "auto"))
    assert more.tokenizer.decode(ids) == f"red house{BOS}"
    assert prepared(more, "text", row, tmp_path, "auto").train_ledger.findings == {}


def test_special_tokens_in_calls_reasoning_and_tools_are_reported(tmp_path):
    encoder = encoder_of(bos=False, eos=False)
    encoder.tokenizer.chat_template = (
        "{{ tools | tojson }}{% for m in messages %}{{ m.reasoning_content }}{{ m.tool_calls | tojson }}"
        "{{ m.content }}<|im_end|>{% endfor %}"
    )
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": OTHER}}}
    turns = [
        {"role": "user", "content": "red"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": "blue", "reasoning_content": f"so {BOS}"},
    ]
    tool = {"type": "function", "function": {"name": "look", "description": f"Looks {EOS}."}}
    found = encoder._special.in_turns(turns, [tool])
    assert [(each.field, each.what.split()[3].rstrip(",")) for each in found] == [
        ("turn 2", OTHER),
        ("turn 3", BOS),
        ("tools", EOS),
    ]


@pytest.mark.parametrize("adds", [(True, False), (False, True), (True, True)])
def test_a_plan_counts_the_same_tokens(adds, tmp_path):
    encoder = encoder_of(bos=adds[0], eos=adds[1])
    folder = tmp_path / "model"
    encoder.tokenizer.save_pretrained(folder)
    assert json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["bos_token"] == BOS
    for kind, form in CASES:
        for before, after in (("", ""), (BOS, f"{EOS}\n")):
            if kind != "text" and form == "template" and before:
                continue  # rendered text loses them only where the tokenizer is loaded
            row = row_of(kind, before, "", after)
            found = prepared(encoder, kind, row, tmp_path, TEMPLATES[form])
            settings = DataSettings(path=str(tmp_path / "rows.jsonl"), template=TEMPLATES[form])
            counted = tokens.count(settings, get_method(METHODS[kind]), ModelSettings(), folder)
            assert counted.tokens == found.ledger()["train"]["tokens"], (kind, form, before)
