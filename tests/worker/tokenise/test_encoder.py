"""Our tokens against those that TRL's own preparation makes of the same rows, and rows that do not fit."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer
from trl import DPOConfig, SFTConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from ftcli import tiny
from ftcli.core.errors import ConfigError, DataError
from ftcli.methods import get_method
from ftcli.settings.groups import DataSettings
from ftcli.worker.models.load import load_model
from ftcli.worker.tokenise.dataset import prepare
from ftcli.worker.tokenise.encoder import IGNORED, Encoder
from ftcli.worker.tokenise.length_limits import Fitting
from tests.worker.conftest import conversation, pair_of_answers, write_rows

ROWS = {
    "text": [{"text": "The red house."}, {"text": "A tree and a stone.\nMoon."}],
    "pair as text": [{"prompt": "red or blue? ", "completion": "blue"}, {"prompt": "a", "completion": "b"}],
    "pair as turns": [
        {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello."}]},
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tree?"}],
            "completion": [{"role": "assistant", "content": "Leaf"}],
        },
    ],
    "messages": [
        conversation(1),
        {"messages": conversation(2)["messages"] + conversation(3)["messages"]},
    ],
}


def ours(rows: list[dict[str, Any]], tokenizer: Any, tmp_path: Path, method: str, **data: Any) -> Dataset:
    settings = DataSettings(path=str(write_rows(tmp_path / "rows.jsonl", rows)), **data)
    fit = Fitting(data.get("max_length_tokens", 256), data.get("overflow", "drop"))
    found = prepare(settings, get_method(method), Encoder(tokenizer), fit, seed=0).train
    assert found is not None
    return found


@pytest.fixture
def trl_prepared(models, tmp_path, tokenizer):
    """What TRL's trainer makes of rows, and the trainer's config arguments."""

    def prepare_by_trl(rows, trainer_class, config_class, **arguments):
        from ftcli.settings.groups import ModelSettings

        model = load_model(ModelSettings(name_or_path=str(models["llama"])), seed=0, device="cpu")
        config = config_class(
            str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", **arguments
        )
        more = {"ref_model": load_model(ModelSettings(name_or_path=str(models["llama"])), seed=0, device="cpu")}
        trainer = trainer_class(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            **(more if trainer_class is DPOTrainer else {}),
        )
        return trainer.train_dataset

    return prepare_by_trl


def without_white_space_behind_the_end(labels: list[int], tokenizer: Any) -> list[int]:
    """TRL trains the line break that a template puts behind the end token of a pair; no model is ever asked for it."""
    (newline,) = tokenizer("\n")["input_ids"]
    ends = labels[-1] == newline and labels[-2] == tokenizer.eos_token_id
    return [*labels[:-1], IGNORED] if ends else labels


@pytest.mark.parametrize("kind", ROWS)
def test_sft_tokens_are_those_that_trl_makes(kind, tokenizer, tmp_path, trl_prepared):
    theirs = trl_prepared(ROWS[kind], SFTTrainer, SFTConfig, max_length=256, assistant_only_loss=kind == "messages")
    # TRL leaves text pairs bare; we only do on request.
    mine = ours(ROWS[kind], tokenizer, tmp_path, "sft", template="none" if kind == "pair as text" else "auto")
    assert mine["input_ids"][:] == theirs["input_ids"][:]
    assert mine["labels"][:] == [without_white_space_behind_the_end(row, tokenizer) for row in theirs["labels"]]
    assert all(any(label != IGNORED for label in row) for row in mine["labels"])


@pytest.mark.parametrize("spoken", [True, False], ids=["turns", "text"])
def test_dpo_tokens_are_those_that_trl_makes(spoken, tokenizer, tmp_path, trl_prepared):
    plain = [{"prompt": "red or blue? ", "chosen": "blue", "rejected": "red, you fool"}]
    rows = [pair_of_answers(i) for i in range(3)] if spoken else plain
    theirs = trl_prepared(rows, DPOTrainer, DPOConfig, max_length=256)
    mine = ours(rows, tokenizer, tmp_path, "dpo", template="auto" if spoken else "none")
    assert mine["prompt_ids"][:] == theirs["prompt_ids"][:]
    for side in ("chosen_ids", "rejected_ids"):
        (newline,) = tokenizer("\n")["input_ids"]
        expected = [row[:-1] if row[-1] == newline else row for row in theirs[side]]
        assert mine[side][:] == expected
        assert all(row[-1] == tokenizer.eos_token_id for row in expected)


def test_instruct_renders_text_pairs_through_the_template(tokenizer, tmp_path):
    (ids,) = ours([{"prompt": "Tree?", "completion": "Leaf"}], tokenizer, tmp_path, "instruct")["input_ids"]
    assert tokenizer.decode(ids) == "<|im_start|>user\n Tree?<|im_end|>\n<|im_start|>assistant\n Leaf<|im_end|>\n"


def test_instruct_refuses_plain_text(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl:1.*holds plain text"):
        ours([{"text": "no turns here"}], tokenizer, tmp_path, "instruct")


@pytest.mark.parametrize(
    ("written", "answer", "remedy"),
    [("[assistant] ", "order", "what the chat template writes before an answer, without white space"),
     ("[assistant]", " order", None),
     ("[assistant]\n", "\norder", "remove white space at the start of the answer")],
)  # fmt: skip
def test_the_remedy_of_tokens_that_join_names_the_side_that_has_the_white_space(written, answer, remedy, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny.MODEL_DIR)
    tokenizer.add_tokens(["\n\n"])
    opened = f"{{% set before = {{'assistant': {written!r}, 'user': '[user] '}} %}}"
    tokenizer.chat_template = opened + (
        "{% for m in messages %}{{ before[m.role] + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ before['assistant'] }}{% endif %}"
    )
    row = {"messages": [{"role": "user", "content": "Tree?"}, {"role": "assistant", "content": answer}]}
    if remedy is None:
        assert ours([row], tokenizer, tmp_path, "sft")["labels"]
        return
    with pytest.raises(DataError, match=rf"would not be trained as it is served.*\n.*{remedy}"):
        ours([row], tokenizer, tmp_path, "sft")


@pytest.mark.parametrize("kind", ["messages", "pair"])
def test_the_last_answer_may_be_trained_alone(kind, tokenizer, tmp_path):
    first, second = conversation(2)["messages"], conversation(3)["messages"]
    row = {"messages": first + second}
    if kind == "pair":  # an answer in three turns, as one that calls a tool
        row = {"prompt": first[:1], "completion": [first[1], {"role": "tool", "content": "Leaf"}, second[1]]}
    for method in ("sft", "instruct"):
        every, last = (ours([row], tokenizer, tmp_path, method, trained_turns=turns)[0] for turns in ("all", "last"))
        assert every["input_ids"] == last["input_ids"]
        answers = [stretches(each["labels"]) for each in (every, last)]
        assert len(answers[0]) == 2
        assert answers[1] == answers[0][1:]


def stretches(labels: list[int]) -> list[list[tuple[int, int]]]:
    """Place and label of the trained tokens, those next to each other together."""
    groups = groupby(enumerate(labels), lambda each: each[1] != -100)
    return [list(group) for trained, group in groups if trained]


def test_a_template_without_markers_is_masked_by_its_serving_prompts(models, tmp_path):
    # The same turns as the tiny template, in a form that TRL has no training version of.
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(models["llama"])
    marked = ours(ROWS["messages"], bare, tmp_path, "sft")
    bare.chat_template = bare.chat_template.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    unmarked = ours(ROWS["messages"], bare, tmp_path, "sft")
    assert unmarked["input_ids"][:] == marked["input_ids"][:]
    assert unmarked["labels"][:] == marked["labels"][:]


def test_conversations_without_a_template_are_a_mistake_of_the_configuration(models, tmp_path):
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(models["llama"])
    bare.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        ours(ROWS["messages"], bare, tmp_path, "sft")


LONG = [{"text": "red " * n} for n in (3, 30, 4)]
# " red" may be one token or more; the counts below are taken from the tokenizer itself.


def lengths(tokenizer: Any) -> list[int]:
    return [len(tokenizer(row["text"] + tokenizer.eos_token)["input_ids"]) for row in LONG]


def prepared(rows, tokenizer, tmp_path, limit, overflow, method="sft"):
    settings = DataSettings(path=str(write_rows(tmp_path / "rows.jsonl", rows)))
    return prepare(settings, get_method(method), Encoder(tokenizer), Fitting(limit, overflow), seed=0)


def test_long_rows_are_dropped_and_counted(tokenizer, tmp_path):
    short, _, other = lengths(tokenizer)
    found = prepared(LONG, tokenizer, tmp_path, max(short, other), "drop")
    ledger = found.ledger()["train"]
    assert ledger["dropped"] == {"longer than data.max_length_tokens": 1}
    assert (ledger["rows_read"], ledger["rows_kept"], ledger["tokens"]) == (3, 2, short + other)
    assert ledger["length_tokens"]["max"] == lengths(tokenizer)[1]


def test_long_rows_are_refused_by_their_line(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl:2") as caught:
        prepared(LONG, tokenizer, tmp_path, 20, "error")
    assert caught.value.exit_code == 3


def test_long_rows_are_cut_on_the_right(tokenizer, tmp_path):
    found = prepared(LONG, tokenizer, tmp_path, 12, "truncate_right")
    assert max(len(ids) for ids in found.train["input_ids"]) == 12
    assert found.ledger()["train"]["truncated"] == 1


def test_long_documents_are_split_without_losing_a_token(tokenizer, tmp_path):
    found = prepared(LONG, tokenizer, tmp_path, 12, "split", method="pretrain")
    assert sum(len(ids) for ids in found.train["input_ids"]) == sum(lengths(tokenizer))
    assert max(len(ids) for ids in found.train["input_ids"]) == 12


def test_a_cut_prompt_leaves_nothing_to_train(tokenizer, tmp_path):
    rows = [{"prompt": "red " * 40, "completion": "blue"}]
    with pytest.raises(DataError, match=r"no row is left of 1 \(1 no token to train"):
        prepared(rows, tokenizer, tmp_path, 8, "truncate_right")


def test_answers_that_all_lost_their_end_are_not_trained(tokenizer, tmp_path):
    rows = [{"prompt": "red", "completion": "blue " * 40}] * 2
    with pytest.raises(DataError, match="never learn to stop") as caught:
        prepared(rows, tokenizer, tmp_path, 20, "truncate_right")
    assert caught.value.problems[0].fix == "raise data.max_length_tokens, or set data.overflow=drop"
    short = {"prompt": "red", "completion": "blue"}
    assert prepared([*rows, short], tokenizer, tmp_path, 20, "truncate_right").ledger()["train"]["lost_end"] == 2


def test_a_template_that_ends_no_answer_is_not_trained(models, tmp_path):
    from transformers import AutoTokenizer

    endless = AutoTokenizer.from_pretrained(models["llama"])
    endless.chat_template = (
        "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    with pytest.raises(DataError, match="never learn to stop") as caught:
        prepared(ROWS["messages"], endless, tmp_path, 256, "drop")
    assert "chat template" in caught.value.problems[0].fix
    settings = DataSettings(path=str(tmp_path / "rows.jsonl"), streaming=True)
    with pytest.raises(DataError, match="never learn to stop"):
        prepare(settings, get_method("sft"), Encoder(endless), Fitting(256, "drop"), seed=0)


def test_all_unusable_rows_are_told_at_once(tokenizer, tmp_path):
    rows = [conversation(0), {"messages": []}, conversation(1), {"messages": [{"role": "user"}]}]
    with pytest.raises(DataError) as caught:
        prepared(rows, tokenizer, tmp_path, 64, "drop")
    assert [problem.where.rpartition(":")[2] for problem in caught.value.problems[:-1]] == ["2", "4"]
    assert "2 of 4 rows are unusable; data.max_bad_share allows 0" in str(caught.value)


def test_the_held_out_share_depends_on_the_seed_alone(tokenizer, tmp_path):
    path = str(write_rows(tmp_path / "rows.jsonl", [conversation(i) for i in range(20)]))
    settings = DataSettings(path=path, eval_share=0.25)

    def split(seed):
        found = prepare(settings, get_method("sft"), Encoder(tokenizer), Fitting(64, "drop"), seed=seed)
        return len(found.train), found.held_out["input_ids"][:]

    assert split(1) == split(1)
    assert split(1)[0] == 15
    assert split(1)[1] != split(2)[1]


def test_a_template_that_writes_the_date_meets_no_entry_of_another_day(models, monkeypatch):
    from transformers import AutoTokenizer

    from ftcli.worker.tokenise import encoder

    def identities(template: str) -> list[Any]:
        tokenizer = AutoTokenizer.from_pretrained(models["llama"])
        tokenizer.chat_template = template
        found = []
        for day in (1, 2):
            clock = type("Clock", (datetime,), {"now": classmethod(lambda _, day=day: datetime(2026, 1, day))})
            monkeypatch.setattr(encoder, "datetime", clock)
            found.append(Encoder(tokenizer).identity())
        return found

    plain = AutoTokenizer.from_pretrained(models["llama"]).chat_template
    same, dated = identities(plain), identities("{{ strftime_now('%d') }}" + plain)
    assert same[0] == same[1]
    assert dated[0] != dated[1]
