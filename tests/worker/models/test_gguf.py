"""`ftcli export --to gguf`: llama.cpp's server, given the file, reads and answers as the trained model does.

No tokenizer of a published model is in the repository, and llama.cpp knows byte-level ones by those alone. A
SentencePiece one of our own it knows by its kind. tests/external/test_gguf.py does the same with SmolLM2.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from ftcli.cli import main
from ftcli.endpoints.llama_server import rendered, serving, tokenised
from ftcli.models.export.compared_conversations import CONVERSATIONS
from ftcli.models.export.gguf_header import gguf_header
from ftcli.settings.groups import ModelSettings
from ftcli.worker.models.load import load_trained
from ftcli.worker.training.run import train
from tests.llama_cpp import EXACT, greedy_pairs
from tests.sentencepiece_llama import REASON, TEMPLATE, WORDS, sentencepiece_llama
from tests.worker.conftest import LORA, conversation, write_rows


@pytest.fixture(params=["a space after each special token", "a space at the beginning alone"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random two-layer Llama with a SentencePiece tokenizer in both of its forms."""
    return sentencepiece_llama(tmp_path / "base", spaced=request.param == "a space after each special token")


def texts(count: int) -> list[str]:
    """Texts of words, numbers, signs and letters of many alphabets."""
    draw = random.Random(3)
    others = ("12", "3.5", "é", "日本", "🙂", "\n", "  ", "!", "don't", "<b>", "Д", "x=1", "\t")
    return [" ".join(draw.choice((*WORDS, *others)) for _ in range(draw.randint(1, 12))) for _ in range(count)]


def test_llama_cpp_reads_and_answers_as_the_trained_model_does(
    base: Path, make_spec: Callable[..., Any], new_run: Callable[..., Path], tmp_path: Path, capsys: Any
):
    rows = write_rows(tmp_path / "rows.jsonl", [conversation(i) for i in range(24)])
    spec = make_spec(rows, peft=LORA, model=base, eval_share=0.25)
    run = new_run(replace(spec, choices={"method": "sft", "peft": "lora"}), "run")
    train(run)
    capsys.readouterr()
    assert main(["export", str(run), "--to", "gguf:f32", "--out", str(tmp_path / "out"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    [file] = (tmp_path / "out").glob("*.gguf")
    assert answer["merge"]["differences"][0]["verdict"] == "good"
    assert answer["notes"][0].startswith("read back by llama.cpp: ")
    assert answer["next"] == [f"ftcli verify {run} --at {file}", f"llama-server --jinja -m {file}"]
    assert gguf_header(file).metadata["tokenizer.chat_template"] == TEMPLATE
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = load_trained(ModelSettings(name_or_path=str(run)), seed=0, device="cpu")
    with serving(file, *EXACT) as server:
        prompts = []
        for turns in (*CONVERSATIONS, *([{"role": "user", "content": text}] for text in texts(200))):
            said = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
            assert tokenised(server, rendered(server, {"messages": turns})) == said, turns
            prompts.append(said)
        for parted, gap in greedy_pairs(server, model, prompts[:20], 12, end=tokenizer.eos_token_id):
            assert not parted or gap < 1e-2


def test_what_llama_cpp_does_not_know_is_refused_before_anything_is_written(tmp_path: Path, capsys: Any):
    pytest.importorskip("conversion", reason=REASON)
    before = sorted(tmp_path.rglob("*"))
    for name in ("gguf", "ollama"):
        assert main(["export", "builtin:tiny", "--to", name, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert "llama.cpp does not know how its tokenizer divides text" in said
        assert "--to folder, or --to vllm" in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("base", ["a space after each special token"], indirect=True)
def test_a_file_that_llama_cpp_would_read_otherwise_is_never_published(base: Path, tmp_path: Path, capsys: Any):
    tokenizer = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})  # which llama.cpp does not do
    (base / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert main(["export", str(base), "--to", "gguf:f32", "--out", str(tmp_path / "out")]) == 2
    assert "texts otherwise than its tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not [*tmp_path.glob(".staging*")]


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
