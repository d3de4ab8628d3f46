"""Real small models, as a user has them: trained as they are served, better on held-out rows, the same when merged.

FTCLI_REAL_MODELS names a folder that holds SmolLM2 135M Instruct as `smollm2`, the Gemma 3 270M base as `gemma3`, and
the tokenizer of Qwen, without weights, as `qwen-tokenizer`. `python benchmarks/real_models.py` trains for longer.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.data.files.locate import DataFile
from ftcli.data.row_ledger import Ledger
from ftcli.data.scan import Scan
from ftcli.launch.local import prepare
from ftcli.methods import get_method
from ftcli.runs import rundir
from ftcli.settings.groups import ModelSettings, SetSettings
from ftcli.worker.commands.eval import evaluate
from ftcli.worker.commands.merge import merge
from ftcli.worker.inference.chat import generate, speakers
from ftcli.worker.models.load import load_tokenizer
from ftcli.worker.tokenise.encoder import IGNORED, Encoder
from tests.conftest import REPOSITORY

MODELS = Path(os.environ.get("FTCLI_REAL_MODELS") or "/nonexistent")
DATA = REPOSITORY.parent / "shared" / "data"
ALPACA = DATA / "alpaca_en_demo.json"
MARKERS = ["<|im_start|>", "<|im_end|>"]
END = MARKERS[1]
CHATML = ("model.chat_template=chatml", f"model.new_tokens={MARKERS}")
PROMPTS = ["Name three colours.", "Say hello.", "What is the capital of France?"]

pytestmark = [
    pytest.mark.skipif(not MODELS.is_dir(), reason="set FTCLI_REAL_MODELS to a folder with smollm2, gemma3, …"),
    pytest.mark.skipif(not DATA.is_dir(), reason="no folder ../shared/data beside the project"),
]
Run = tuple[Path, dict[str, Any]]


def train(run: Path, model: str, *words: str) -> Run:
    """Train LoRA on a real model in this process, from the words that a user would type."""
    from ftcli.worker.training.run import train as work

    small = (
        "peft=lora",
        "hardware.num_threads=1",
        "train.per_device_train_batch_size=4",
        "train.gradient_accumulation_steps=1",
        "run.score_rows=0",
    )
    typed = (*small, *words, f"model.name_or_path={MODELS / model}", f"run.dir={run}")
    return run, work(prepare(spec_of(Request(overrides=typed)), ["train", *typed]))


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Six steps on short rows of Alpaca; each model once."""
    runs: dict[str, Run] = {}
    rows = (f"data.path={ALPACA}", "data.max_rows=160", "data.max_length_tokens=80", "data.eval_share=0.2")
    how = ("train.max_steps=6", "train.learning_rate=1e-3", "train.save_steps=6", "train.eval_on_start=true")

    def run_of(model: str) -> Run:
        if model not in runs:
            own = CHATML if model == "gemma3" else ()
            runs[model] = train(tmp_path_factory.mktemp(model) / "run", model, *rows, *how, *own)
        return runs[model]

    return run_of


# --- trained = served ------------------------------------------------------------------------------------------------

TEMPLATES = {
    "smollm2": [(None, [])],
    "gemma3": [("chatml", MARKERS)],
    "qwen-tokenizer": [(name, []) for name in ("chatml", "qwen2_5", "qwen3", "qwen3_instruct_2507")],
}


@pytest.mark.parametrize(
    ("model", "template", "new_tokens"), [(model, *each) for model, all_of in TEMPLATES.items() for each in all_of]
)
def test_rows_are_trained_as_the_real_tokenizer_serves_them(model, template, new_tokens, tmp_path):
    folder = MODELS / model
    if not (folder / "config.json").is_file():  # a tokenizer alone: what a model of it would need besides
        folder = Path(shutil.copytree(folder, tmp_path / "model"))
        (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}), encoding="utf-8")
    settings = ModelSettings(name_or_path=str(folder), chat_template=template, new_tokens=new_tokens or None)
    tokenizer = load_tokenizer(settings)
    encoder = Encoder(tokenizer, [tokenizer.convert_tokens_to_ids(END)])
    rows = json.loads(ALPACA.read_text(encoding="utf-8"))[:200]
    scan = Scan([DataFile(str(ALPACA), "")], SetSettings(path=str(ALPACA)), get_method("sft"), Ledger("", ""))
    for row, example in zip(rows, scan, strict=False):
        asked = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
        plain = {"return_dict": False}
        prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, **plain)
        whole = tokenizer.apply_chat_template(turns, **plain)
        answer_end = len(whole) - whole[::-1].index(tokenizer.convert_tokens_to_ids(END))
        [encoded] = encoder.encode([example])
        assert encoded.columns["input_ids"] == whole
        assert whole[: len(prompt)] == prompt
        assert encoded.columns["labels"] == [
            *[IGNORED] * len(prompt),
            *whole[len(prompt) : answer_end],
            *[IGNORED] * (len(whole) - answer_end),
        ]


# --- a run and what comes after it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_the_held_out_loss_falls_and_an_evaluation_finds_it_again(fine_tuned, model):
    run, result = fine_tuned(model)
    before, after = result["eval_loss"]["before"], result["eval_loss"]["after"]
    assert after < before
    found = evaluate({"run": str(run)})
    assert found["before"]["eval_loss"] == pytest.approx(before, abs=1e-4)
    assert found["after"]["eval_loss"] == pytest.approx(after, abs=1e-4)
    assert found["after"]["score"] == {}  # the run set run.score_rows=0


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_the_merged_model_answers_as_the_adapter_does_and_stops_at_the_same_token(fine_tuned, model, tmp_path):
    run, _ = fine_tuned(model)
    merged = tmp_path / "merged"
    merge({"models": [str(run)], "to": str(merged), "dtype": "float32"})
    asked = {"prompts": PROMPTS, "max_new_tokens": 24}
    answers = [[row["answer"] for row in generate({"model": str(each), **asked})] for each in (run, merged)]
    assert answers[0] == answers[1]
    assert not any(marker in answer for answer in answers[0] for marker in MARKERS)
    end = AutoTokenizer.from_pretrained(merged).convert_tokens_to_ids(END)
    for folder in (run / rundir.MODEL, run / rundir.CHECKPOINTS / "checkpoint-6", merged):
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
        assert end in (ends if isinstance(ends, list) else [ends]), folder
    [speaker] = speakers({"model": str(run / rundir.CHECKPOINTS / "checkpoint-6"), **asked})
    assert speaker.answer_all(PROMPTS, seed=0) == answers[0]


def test_new_tokens_of_a_base_are_saved_with_the_adapter_and_merged_into_its_embeddings(fine_tuned, tmp_path):
    run, _ = fine_tuned("gemma3")
    base = AutoTokenizer.from_pretrained(MODELS / "gemma3")
    served = AutoTokenizer.from_pretrained(run / rundir.MODEL)
    ids = served.convert_tokens_to_ids(MARKERS)
    assert ids == [len(base), len(base) + 1]
    assert served.encode("".join(MARKERS), add_special_tokens=False) == ids
    merge({"models": [str(run)], "to": str(tmp_path / "merged")})
    rows = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").get_input_embeddings().weight
    assert rows.shape[0] > max(ids)
    # they were equal when they were added, as the mean of all others
    assert not rows[ids[0]].equal(rows[ids[1]])


# --- every kind of method --------------------------------------------------------------------------------------------

PAIRS = (f"data.path={DATA / 'dpo_en_demo.json'}", "data.max_length_tokens=160", "data.max_rows=150")
ONE_STEP = ("train.max_steps=1", "train.save_strategy=no")


def test_preferences_start_from_equal_likelihoods(tmp_path):
    _, result = train(tmp_path / "run", "smollm2", "method=dpo", *PAIRS, *ONE_STEP)
    assert result["loss_first"] == pytest.approx(math.log(2), abs=1e-4)


def test_a_reward_model_is_trained_and_its_accuracy_measured(tmp_path):
    more = ("data.eval_share=0.5", "run.score_rows=4")
    _, result = train(tmp_path / "run", "smollm2", "method=reward", *PAIRS, *more, *ONE_STEP)
    assert result["score"]["name"] == "preference_accuracy"
    assert result["score"]["rows"] > 0


def test_answers_are_sampled_and_rewarded_by_their_final_number(tmp_path):
    rows = [{"prompt": f"What is {n} + 1? Answer with the number only.", "answer": str(n + 1)} for n in range(4)]
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rewards = ("method=grpo", "method.rewards.number=1", "method.num_generations=4", "method.max_completion_length=24")
    held_out = (f"data.path={file}", f"data.eval_path={file}", "run.score_rows=4")
    _, result = train(tmp_path / "run", "smollm2", *rewards, *held_out, *ONE_STEP)
    assert result["score"]["name"] == "mean_reward"
    assert result["score"]["before"] > 0  # SmolLM2 can add one
