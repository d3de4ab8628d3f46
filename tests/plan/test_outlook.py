"""The plan's arithmetic against worked numbers, its token counts against the tokenizer of transformers."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.build.resolve import run_of
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.methods import get_method
from ftcli.plan import tokens
from ftcli.plan.memory import MemoryEstimate
from ftcli.plan.outlook import Plan, plan
from ftcli.settings.batch_plan import BatchPlan
from ftcli.settings.groups import ModelSettings

WORDS = "the cat sat on the mat"


def outlook(*overrides: str) -> Plan:
    return plan(run_of(Request(overrides=overrides)))


@pytest.fixture
def rows(here):
    """Writes rows to rows.jsonl and returns the override that names it."""

    def write(*values: Any) -> str:
        Path("rows.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
        return "data.path=rows.jsonl"

    return write


# --- batches and steps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_rows", "overrides", "batch", "steps"),
    [
        # 10 rows by 4 → 3 batches, 3 updates an epoch
        (10, ["train.per_device_train_batch_size=4", "train.num_train_epochs=1"], 4, 3),
        (10, ["train.per_device_train_batch_size=4", "train.num_train_epochs=2"], 4, 6),
        # half an epoch of 3 updates: 1.5 → 2
        (10, ["train.per_device_train_batch_size=4", "train.num_train_epochs=0.5"], 4, 2),
        # 10 rows by 2 → 5 batches, by 2 accumulated → 3 updates, the last one of a single batch
        (10, ["train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=2", "train.num_train_epochs=1"],
         4, 3),
        # 3 batches are fewer than 8 accumulated: still one update
        (3, ["train.per_device_train_batch_size=1", "train.gradient_accumulation_steps=8", "train.num_train_epochs=1"],
         8, 1),
        # 2 processes with 2 rows each: 10 / 4 → 3 batches a process
        (10, ["train.per_device_train_batch_size=2", "hardware.num_processes=2", "train.num_train_epochs=1"], 4, 3),
        (10, ["train.per_device_train_batch_size=4", "train.dataloader_drop_last=true", "train.num_train_epochs=1"],
         4, 2),
        (10, ["train.max_steps=17"], 8, 17),
        # 20% of 10 held out: 8 rows by 4
        (10, ["train.per_device_train_batch_size=4", "data.eval_share=0.2", "train.num_train_epochs=1"], 4, 2),
        # 1% of 10 is none, but one row is always held out: 9 rows by 3
        (10, ["train.per_device_train_batch_size=3", "data.eval_share=0.01", "train.num_train_epochs=1"], 3, 3),
        (10, ["train.per_device_train_batch_size=1", "data.max_rows=4", "train.num_train_epochs=1"], 1, 4),
    ],
)  # fmt: skip
def test_batch_and_steps_are_those_of_the_trainer(rows, num_rows, overrides, batch, steps):
    found = outlook(rows(*[{"text": WORDS}] * num_rows), "method.packing=false", *overrides)
    assert (found.global_batch, found.steps) == (batch, steps)


def test_steps_agree_with_the_trainers_own_formula(rows):
    # transformers.Trainer.set_initial_training_values: len(dataloader) // accumulation, rounded up, at least 1
    file = rows(*[{"text": WORDS}] * 23)
    for size, accumulation, epochs in [(1, 1, 1), (2, 3, 2), (5, 4, 1.5), (8, 1, 3), (23, 2, 1), (4, 7, 0.3)]:
        batches = math.ceil(23 / size)
        updates = max(batches // accumulation + int(batches % accumulation > 0), 1)
        found = outlook(
            file,
            "method.packing=false",
            f"train.per_device_train_batch_size={size}",
            f"train.gradient_accumulation_steps={accumulation}",
            f"train.num_train_epochs={epochs}",
        )
        assert found.steps == math.ceil(epochs * updates)


def test_packed_steps_come_from_tokens_and_split_ones_from_pieces(rows):
    file = rows(*[{"text": WORDS}] * 40)
    total = outlook(file, "method=pretrain").tokens_per_epoch
    one = total // 40
    shared = ["method=pretrain", "data.max_length_tokens=4", "train.num_train_epochs=1"]
    packed = outlook(file, *shared, "train.per_device_train_batch_size=1")
    assert packed.steps == total // 4
    split = outlook(file, *shared, "train.per_device_train_batch_size=1", "method.packing=false")
    assert split.steps == 40 * math.ceil(one / 4)


# --- what becomes of long and broken rows -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overflow", "kept", "words"),
    [("drop", 2, "dropped"), ("truncate_right", 3, "are truncated on the right"), ("error", 3, "stop the training")],
)
def test_rows_beyond_the_limit_are_counted_and_told(rows, overflow, kept, words):
    file = rows({"text": WORDS}, {"text": WORDS * 20}, {"text": WORDS})
    found = outlook(file, "data.max_length_tokens=20", f"data.overflow={overflow}")
    assert (found.rows, found.rows_kept) == (3, kept)
    [warning] = [text for text in found.warnings if "longer" in text]
    assert warning.startswith("1 of 3 rows are longer than 20 tokens")
    assert words in warning


def test_a_cut_row_counts_what_is_left_of_it(rows):
    file = rows({"text": WORDS * 20}, {"text": WORDS * 20})
    assert outlook(file, "data.max_length_tokens=16", "data.overflow=truncate_right").tokens_per_epoch == 32


def test_a_column_that_is_lost_is_a_warning(rows):
    file = rows({"text": WORDS, "images": ["a.png"], "id": 1}, {"text": WORDS, "images": ["b.png"], "id": 2})
    [warning] = [text for text in outlook(file).warnings if "column" in text]
    assert warning.startswith("column images is not read: only text is trained")
    assert outlook(file).warnings == outlook(file).warnings  # the second time from the cache


def test_rows_that_cannot_be_used_are_counted_and_told(here):
    Path("rows.jsonl").write_text('{"text": "a"}\nnot json\n{"text": 1}\n{"text": "b"}\n', encoding="utf-8")
    found = outlook("data.path=rows.jsonl")
    assert (found.rows, found.rows_kept) == (4, 2)
    assert "2 rows cannot be used; ftcli data check lists them" in found.warnings


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny.MODEL_DIR)


TURNS = [
    {"role": "user", "content": "What colour is the sky?"},
    {"role": "assistant", "content": "blue"},
    {"role": "user", "content": "And grass? été 日本 😀"},
    {"role": "assistant", "content": "green"},
]
SPOKEN_PAIR = [{"role": "user", "content": "2 + 3 ="}, {"role": "assistant", "content": "5"}]


def test_text_is_counted_with_the_token_that_closes_it(rows, tokenizer):
    texts = [WORDS, "été 日本 😀\n\n  x", WORDS + tokenizer.eos_token]
    found = outlook(rows(*[{"text": text} for text in texts]))
    closed = [texts[0] + tokenizer.eos_token, texts[1] + tokenizer.eos_token, texts[2]]
    assert found.tokens_exact
    assert found.tokens_per_epoch == sum(map(len, tokenizer(closed)["input_ids"]))


def test_messages_are_counted_as_the_template_renders_them(rows, tokenizer):
    found = outlook(rows({"messages": TURNS}, {"messages": TURNS[:2]}))
    each = [tokenizer.apply_chat_template(turns)["input_ids"] for turns in (TURNS, TURNS[:2])]
    assert found.tokens_per_epoch == sum(map(len, each))


def test_text_pairs_are_counted_as_turns_or_bare_as_the_template_setting_says(rows, tokenizer):
    file = rows({"prompt": "2 + 3 =", "completion": "5"})
    plain = tokenizer("2 + 3 =5" + tokenizer.eos_token)["input_ids"]
    spoken = tokenizer.apply_chat_template(SPOKEN_PAIR)["input_ids"]
    assert outlook(file).tokens_per_epoch == len(spoken)
    assert outlook(file, "data.template=none").tokens_per_epoch == len(plain)
    assert outlook(file, "method=instruct").tokens_per_epoch == len(spoken)
    shutil.copytree(tiny.MODEL_DIR, "base")
    (Path("base") / "chat_template.jinja").unlink()
    assert outlook(file, "model.name_or_path=base").tokens_per_epoch == len(plain)
    as_turns = rows({"prompt": SPOKEN_PAIR[:1], "completion": SPOKEN_PAIR[1:]})
    assert outlook(as_turns).tokens_per_epoch == len(spoken)


def test_a_preference_is_counted_on_both_sides(rows, tokenizer):
    text = {"prompt": "Say it. ", "chosen": "yes please", "rejected": "no"}
    found = outlook(rows(text), "method=dpo", "data.template=none")
    sides = ["Say it. yes please" + tokenizer.eos_token, "Say it. no" + tokenizer.eos_token]
    assert found.tokens_per_epoch == sum(map(len, tokenizer(sides)["input_ids"]))
    spoken = [[TURNS[0], {"role": "assistant", "content": text}] for text in ("blue", "red")]
    found = outlook(rows({"chosen": spoken[0], "rejected": spoken[1]}), "method=dpo")
    # without the line break that the template puts behind the end token, which an answer does without
    sides = [tokenizer.apply_chat_template(turns)["input_ids"] for turns in spoken]
    assert [tokenizer.decode(ids[-2:]) for ids in sides] == ["<|im_end|>\n"] * 2
    assert found.tokens_per_epoch == sum(len(ids) - 1 for ids in sides)


@pytest.mark.parametrize("beside", ["chosen", "messages", "completion", "text"])
def test_a_prompt_is_counted_alone_whatever_columns_its_row_has(beside, rows):
    asked = {"prompt": WORDS}
    own = ("method=grpo", "method.rewards.ended=1", "data.format=prompt")
    alone = outlook(rows(asked), *own).tokens_per_epoch
    assert outlook(rows({**asked, beside: WORDS, "rejected": "no"}), *own).tokens_per_epoch == alone > 0


def test_a_count_without_the_models_own_tokenizer_is_an_estimate(rows):
    file = rows({"messages": TURNS})
    shutil.copytree(tiny.MODEL_DIR, "model")
    assert outlook(file, "model.name_or_path=model").tokens_exact
    (Path("model") / "chat_template.jinja").rename("template")
    with pytest.raises(ConfigError, match="has no chat template"):
        outlook(file, "model.name_or_path=model")
    text = rows({"text": WORDS})
    assert outlook(text, "model.name_or_path=model").tokens_exact  # plain text needs no template
    (Path("model") / "tokenizer.json").unlink()
    assert not outlook(text, "model.name_or_path=model").tokens_exact
    assert not outlook(text, "model=llama").tokens_exact


def test_a_file_of_more_than_20_mb_is_estimated_and_says_so(here, capsys):
    from ftcli.cli import main

    row = json.dumps({"text": WORDS * 40}) + "\n"
    count = 20_000_001 // len(row) + 1
    Path("rows.jsonl").write_text(row * count, encoding="utf-8")
    found = outlook("data.path=rows.jsonl")
    assert not found.tokens_exact
    assert found.rows == pytest.approx(count, rel=0.1)
    assert outlook("data.path=rows.jsonl", "data.max_rows=3").rows == 3
    assert outlook("data.path=rows.jsonl", "data.max_rows=1000").rows == 1000
    assert main(["plan", "data.path=rows.jsonl"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  tokens")]
    assert "about" in line
    assert "(estimate)" in line


def test_the_limit_of_exact_counts_is_20_mb():
    assert tokens.EXACT_BYTES == 20_000_000


# --- parameters -------------------------------------------------------------------------------------------------------


def test_full_fine_tuning_trains_every_parameter(here):
    found = outlook()
    assert found.trainable == found.parameters
    assert found.parameters is not None
    assert found.parameters < 2_400_000


def test_lora_trains_two_thin_matrices_a_linear_layer(here):
    # Llama-3.2-1B: 16 layers of q (2048→2048), k and v (2048→512), o (2048→2048), gate and up (2048→8192), down.
    ends = [(2048, 2048), (2048, 512), (2048, 512), (2048, 2048), (2048, 8192), (2048, 8192), (8192, 2048)]
    worked = 16 * sum(8 * (a + b) for a, b in ends)
    found = outlook("model=llama-1b", "peft=lora", "peft.r=8")
    assert worked == 5_636_096
    assert found.trainable == worked
    only = outlook("model=llama-1b", "peft=lora", "peft.r=8", "peft.target_modules=[q_proj,v_proj]")
    assert only.trainable == 16 * 8 * (2048 + 2048 + 2048 + 512)


def test_what_cannot_be_known_is_said_to_be_unknown(here, capsys):
    from ftcli.cli import main

    found = outlook("model.name_or_path=someone/unheard-of")
    assert (found.parameters, found.trainable, found.memory) == (None, None, None)
    assert main(["plan", "model.name_or_path=someone/unheard-of"]) == 0
    assert "unknown, trains unknown" in capsys.readouterr().out


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_a_warning_names_what_is_odd_but_allowed(here):
    for other in ("model=llama-1b", "model.name_or_path=someone/unheard-of"):
        assert any("built-in demonstration set" in text for text in outlook(other).warnings)
    assert any("no metric of its own" in text for text in outlook("method=pretrain", "run.score_rows=5").warnings)
    assert outlook("method=pretrain").warnings == ()
    assert outlook().warnings == ()


# --- several sets, and lengths that are worked out --------------------------------------------------------------------


def test_a_mix_is_counted_as_often_as_it_takes_each_set(here):
    Path("a.jsonl").write_text("".join(f'{{"text": "a {i}"}}\n' for i in range(20)), encoding="utf-8")
    Path("b.jsonl").write_text("".join(f'{{"text": "b {i}"}}\n' for i in range(20)), encoding="utf-8")
    # a whole, repeated once and a half: 30 rows; b a quarter of the whole: 30 / 0.75 = 40, 10 of them b's
    sets = "data.mix={a: {path: a.jsonl, repeat: 1.5}, b: {path: b.jsonl, share_of_mix: 0.25}}"
    unpacked = ("method.packing=false", "train.per_device_train_batch_size=4", "train.num_train_epochs=1")
    found = outlook(sets, *unpacked)
    assert (found.rows, found.rows_kept, found.steps) == (40, 40, 10)
    assert not found.tokens_exact  # which rows are drawn is not known before the run


def test_a_length_that_is_worked_out_is_told_with_its_reason(rows):
    texts = [{"text": WORDS}] * 99
    found = outlook(rows(*texts, {"text": WORDS * 40}))
    [note] = [note for note in found.notes if note["key"] == "data.max_length_tokens"]
    assert note["value"] == 64
    assert note["why"].startswith("holds 99 % of the rows")
    assert found.rows_kept == 99
    assert any("1 of 100 rows are longer than 64 tokens and are dropped" in text for text in found.warnings)
    given = outlook(rows(*texts), "data.max_length_tokens=100")
    assert not any(note["key"] == "data.max_length_tokens" for note in given.notes)


def test_rows_elsewhere_are_not_counted_and_it_is_said(here):
    found = outlook("data.path=hub:someone/rows", "train.max_steps=5")
    assert (found.rows_unknown, found.tokens_exact) == (("hub:someone/rows",), False)
    assert (found.steps, found.steps_unknown) == (5, False)
    [warning] = [each for each in found.warnings if each.startswith("hub:someone/rows is not on this machine")]
    assert "its rows and tokens are unknown until the run has fetched it" in warning
    assert (
        "ftcli data check data.path=hub:someone/rows fetches and counts it, data.max_rows=N bounds its rows" in warning
    )


def test_what_follows_from_unknown_rows_is_unknown_too(here, capsys):
    # 60 rows, 8 a step, 3 epochs: at most 24 steps; a warm-up of 20 is no longer than they are, whatever they are.
    words = ["plan", "data.path=hub:someone/rows", "method.packing=false", "train.warmup_steps=20"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows_unknown"] == ["hub:someone/rows"]
    unknown = ("rows", "rows_kept", "blocks", "tokens_per_epoch", "steps", "flops", "rows_at_most", "steps_at_most")
    assert {name: found[name] for name in unknown} == dict.fromkeys(unknown)
    assert not any("warmup_steps" in warning for warning in found["warnings"])
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "rows        unknown: hub:someone/rows is not on this machine" in told
    assert "steps       unknown, as the rows are" in told
    assert "tokens      unknown" in told
    assert "at least, since the steps are unknown" in told
    assert "train.max_steps=N fixes the steps" in told
    assert main([*words, "data.max_rows=60", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["rows_at_most"], found["steps"], found["steps_at_most"]) == (None, 60, None, 24)
    assert main([*words, "data.max_rows=60"]) == 0
    assert "unknown, as the rows are; about 24 at most" in capsys.readouterr().out


def test_a_pipeline_with_unknown_rows_has_no_sum_of_steps(here, capsys):
    assert main(["plan", "method=rlhf", "stages.sft.data.path=hub:someone/rows"]) == 0
    told = capsys.readouterr().out
    assert "an unknown number of steps, at most" in told
    assert main(["plan", "method=rlhf", "stages.sft.data.path=hub:someone/rows", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["steps"] is None


@pytest.fixture
def counting(here, monkeypatch):
    """A file's settings, and the counts made rather than remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    from ftcli.settings.groups import DataSettings

    (here / "rows.jsonl").write_text('{"text": "one two three"}\n', encoding="utf-8")
    made, real = [], tokens.count
    monkeypatch.setattr(tokens, "count", lambda *asked: made.append(asked) or real(*asked))
    return DataSettings(path=str(here / "rows.jsonl"), max_length_tokens=64, overflow="drop"), made


def test_a_remembered_count_is_the_counted_one(counting):
    from ftcli.plan import token_cache

    data, made = counting
    first = token_cache.count(data, get_method("sft"), ModelSettings(), tiny.MODEL_DIR, 8192)
    assert token_cache.count(data, get_method("sft"), ModelSettings(), tiny.MODEL_DIR, 8192) == first
    assert len(made) == 1
    assert first == tokens.count(data, get_method("sft"), ModelSettings(), tiny.MODEL_DIR, 8192)


def test_a_remembered_count_is_forgotten_with_any_change(counting):
    from ftcli.plan import token_cache

    data, made = counting
    sft, pretrain = get_method("sft"), get_method("pretrain")
    token_cache.count(data, sft, ModelSettings(), tiny.MODEL_DIR, 8192)
    file = Path(str(data.path))
    changed = [
        (replace(data, max_length_tokens=2), sft, ModelSettings(), tiny.MODEL_DIR, 8192),
        (replace(data, max_rows=1), sft, ModelSettings(), tiny.MODEL_DIR, 8192),
        (replace(data, mix={"a": {"path": data.path}}, path=None), sft, ModelSettings(), tiny.MODEL_DIR, 8192),
        (data, pretrain, ModelSettings(), tiny.MODEL_DIR, 8192),
        (data, sft, ModelSettings(), None, 8192),
        (data, sft, ModelSettings(), tiny.MODEL_DIR, 4096),
        (data, sft, ModelSettings(chat_template="chatml"), tiny.MODEL_DIR, 8192),
        (data, sft, ModelSettings(new_tokens=["<x>"]), tiny.MODEL_DIR, 8192),
    ]
    for number, arguments in enumerate(changed, 2):
        token_cache.count(*arguments)
        assert len(made) == number, arguments
    file.write_text('{"text": "one two 3hree"}\n', encoding="utf-8")  # as many bytes
    token_cache.count(data, sft, ModelSettings(), tiny.MODEL_DIR, 8192)
    assert len(made) == len(changed) + 2


# --- runs that would learn nothing ------------------------------------------------------------------------------------

DROPS = ("method.packing=false", "train.dataloader_drop_last=true")


@pytest.mark.parametrize(
    ("num_rows", "own", "words", "fix"),
    [
        (
            5,
            ["train.per_device_train_batch_size=64"],
            "last batch of 5 rows, since one has 64;",
            "batch_size=5 or less",
        ),
        # also where the length is set in steps: there would be no row for any of them
        (5, ["train.per_device_train_batch_size=64", "train.max_steps=3"], "no step is left", "batch_size=5 or less"),
        # 2 processes with 4 rows each; of 7 rows each process could take 3
        (7, ["train.per_device_train_batch_size=4", "hardware.num_processes=2"], "8 on 2 processes", "batch_size=3 or"),
        (1, ["method.packing=true", "train.per_device_train_batch_size=2"], "batch of 1 row,", "batch_size=1 or less"),
        # of 9 rows one is held out
        (9, ["train.per_device_train_batch_size=9", "data.eval_share=0.1"], "batch of 8 rows,", "batch_size=8 or less"),
    ],
)
def test_a_check_refuses_rows_of_which_no_batch_is_left(num_rows, own, words, fix, rows):
    data = rows(*({"prompt": "a", "completion": f"b {index}"} for index in range(num_rows)))
    with pytest.raises(ConfigError) as caught:
        run_of(Request(overrides=(data, *DROPS, *own)))
    [problem] = caught.value.problems
    assert problem.where == "train.dataloader_drop_last=true"
    assert words in problem.what
    assert fix in problem.fix


def test_a_plan_refuses_what_packing_leaves_no_batch_of(rows):
    # 9 rows are a batch of 9, so a check passes them; packed they are fewer blocks.
    data = rows(*({"prompt": "a", "completion": f"b {index}"} for index in range(9)))
    with pytest.raises(ConfigError) as caught:
        outlook(data, *DROPS, "method.packing=true", "train.per_device_train_batch_size=9")
    [problem] = caught.value.problems
    assert problem.where == "train.dataloader_drop_last"
    assert "packed blocks, since one has 9;" in problem.what


def test_a_plan_counts_what_dropping_the_last_batch_leaves(rows):
    data = rows(*({"prompt": "a", "completion": f"b {index}"} for index in range(11)))
    how = (data, "method.packing=false", "train.per_device_train_batch_size=4", "train.num_train_epochs=3")
    assert outlook(*how).steps == 9  # 3 batches, the last one of 3 rows
    assert outlook(*how, "train.dataloader_drop_last=true").steps == 6
    assert outlook(*how, "train.dataloader_drop_last=true", "train.gradient_accumulation_steps=8").steps == 3


def test_a_warmup_longer_than_the_run_is_warned_of(rows):
    data = rows({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "c"})
    [warning] = [w for w in outlook(data, "train.warmup_steps=10", "train.max_steps=4").warnings if "warmup" in w]
    assert "more than the run's 4 steps" in warning
    assert "reaches 40% of train.learning_rate" in warning
    assert not [w for w in outlook(data, "train.warmup_steps=4", "train.max_steps=4").warnings if "warmup" in w]


# --- defaults of the libraries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "group"), [("grpo", 8), ("rloo", 2)])
def test_steps_of_a_group_method_follow_the_librarys_own_group_size(method, group):
    # 16 answers per generation, from 16 / group prompts each: 64 prompts need 4 × group generations, a step each.
    declared, batch = get_method(method), BatchPlan(per_device=16, accumulation=1, processes=1)
    assert declared.steps_per_epoch is not None
    assert declared.steps_per_epoch(declared.completed({}), batch, 64) == 4 * group
    assert declared.steps_per_epoch(declared.completed({"num_generations": 4}), batch, 64) == 16


@pytest.mark.parametrize(("method", "beta", "references"), [("grpo", None, 0), ("grpo", 0.1, 1), ("rloo", None, 1)])
def test_a_reference_counts_where_the_librarys_beta_uses_one(method, beta, references):
    # TRL's own beta is 0 for GRPO, which then loads no reference, and 0.05 for RLOO.
    own = [f"method.beta={beta}"] if beta is not None else []
    found = outlook(f"method={method}", "peft=none", *own).memory
    assert found is not None
    assert found["reference"] == pytest.approx(references * found["weights"])


# --- the memory of a run's phases -------------------------------------------------------------------------------------


def memory_of(*overrides: str) -> MemoryEstimate:
    found = outlook(*overrides).memory
    assert found is not None
    return found


ROLLOUT = ("model=qwen-4b", "peft=lora", "hardware.gpu=h100", "data.max_length_tokens=512")
GROUPS = ("method.rewards.ended=1", "method.num_generations=8", "method.max_completion_length=1024")
PPO = ("method=ppo", "method.rewards.ended=1", "method.max_new_tokens=1024")


@pytest.mark.parametrize(
    ("own", "answers"),
    [
        # 4 answers a pass, 16 passes before the optimiser steps, all of them generated at once
        (("method=grpo", *GROUPS), 64),
        (("method=rloo", *GROUPS), 64),
        (("method=grpo", *GROUPS, "method.steps_per_generation=8"), 32),
        (("method=grpo", *GROUPS, "method.generation_batch_size=128"), 128),
        (PPO, 64),
        ((*PPO, "method.num_mini_batches=2"), 128),
        ((*PPO, "method.generation_batch_size=8"), 8),
    ],
)
def test_a_rollout_is_planned_with_the_answers_that_are_generated_together(own, answers, rows):
    data = rows({"prompt": WORDS, "answer": "a"})
    batch = ("train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=16")
    found = memory_of(*own, *ROLLOUT, *batch, data)
    # 147456 bytes a token over 36 layers, of which one is copied; the tokenizer is not here, so prompts may have 512
    assert found["kv_cache"] == pytest.approx(answers * (1024 + 512) * 147456 * 37 / 36 / 2**30)


def test_a_colocated_engine_takes_its_share_of_the_card(rows, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, find=importlib.util.find_spec: find(name) or name)
    data, grpo = (
        rows({"prompt": WORDS, "answer": "a"}),
        ("method=grpo", "method.rewards.ended=1", "method.use_vllm=true", *ROLLOUT),
    )
    found = memory_of(*grpo, "method.vllm_mode=colocate", "method.vllm_gpu_memory_utilization=0.4", data)
    assert found["vllm"] == pytest.approx(0.4 * 79.6)
    assert found["kv_cache"] == 0
    server = memory_of(*grpo, "method.vllm_mode=server", data)
    assert server["vllm"] == server["kv_cache"] == 0


def test_scoring_held_out_rows_is_a_phase_of_its_own(rows):
    data = rows(*[{"prompt": WORDS, "completion": WORDS}] * 20)
    scored = memory_of(data, "data.eval_share=0.5", "run.score_rows=10")
    assert scored["kv_cache"] > 0
    assert "sampling" not in memory_of(data, "data.eval_share=0.5", "run.score_rows=0").phases


@pytest.mark.parametrize(
    ("own", "masked"),
    [
        (("method.packing=true",), True),
        (("method.packing=false", "train.per_device_train_batch_size=2"), True),
        (("method.packing=false", "train.per_device_train_batch_size=1"), False),
        (("method.packing=true", "model.attn_implementation=flash_attention_2"), False),
    ],
)
def test_packed_and_padded_rows_have_a_mask_under_sdpa(own, masked, rows):
    data = rows(*[{"text": WORDS}] * 4)
    found = memory_of(data, "model=llama-1b", "hardware.gpu=h100", *own)
    assert (found["attention_masks"] > 0) == masked


def test_a_compiled_run_keeps_fewer_activations(rows):
    data = rows(*[{"text": WORDS}] * 4)
    how = (data, "model=llama-1b", "hardware.gpu=h100", "train.gradient_checkpointing=false")
    assert memory_of(*how, "train.torch_compile=true")["activations"] < memory_of(*how)["activations"]
