"""SmolLM2-135M, base and after a real LoRA, as GGUF in f32: llama.cpp's server reads and answers as transformers does.

FTCLI_REAL_MODELS names a folder that holds SmolLM2 135M Instruct as `smollm2`, as for test_real_models.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ftcli.cli import main
from ftcli.endpoints.llama_server import rendered, serving, tokenised
from ftcli.models.export.compared_conversations import CONVERSATIONS
from ftcli.models.export.gguf_header import gguf_header
from ftcli.models.export.go_template import render
from ftcli.serving.deployed_modelfile import parsed
from ftcli.settings.groups import ModelSettings
from ftcli.worker.models.load import load_trained
from tests.external.smollm2 import ALPACA, NEEDED, copied, trained
from tests.llama_cpp import EXACT, greedy, greedy_pairs, program

pytestmark = NEEDED


@pytest.fixture
def smollm2(tmp_path: Path) -> Path:
    """SmolLM2 in a folder of its own."""
    return copied(tmp_path / "smollm2")


@pytest.mark.parametrize("which", ["base", "after LoRA"])
def test_llama_cpp_reads_and_answers_as_transformers_does(which: str, smollm2: Path, tmp_path: Path, capsys: Any):
    pytest.importorskip("xllamacpp", reason="pip install 'ftcli[gguf]'")
    name = smollm2 if which == "base" else trained(smollm2, tmp_path / "run")
    capsys.readouterr()
    assert main(["export", str(name), "--to", "ollama:f32", "--out", str(tmp_path / "out"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    if which != "base":
        assert answer["merge"]["differences"][0]["verdict"] == "good"
    [file] = (tmp_path / "out").glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = load_trained(ModelSettings(name_or_path=str(name), dtype="float32"), seed=0, device="cpu")
    rows = json.loads(ALPACA.read_text(encoding="utf-8"))
    texts = [row["instruction"] + row["output"] for row in rows[:200]]
    questions = [[{"role": "user", "content": row["instruction"]}] for row in rows[200:220]]
    made = parsed(tmp_path / "out/Modelfile")
    assert made.source == f"./{file.name}"
    assert made.parameters["stop"] == ["<|im_end|>"]
    with serving(file, *EXACT) as server:
        for text in texts:
            assert tokenised(server, text) == tokenizer(text)["input_ids"], text
        prompts = []
        for turns in (*CONVERSATIONS, *questions):
            said = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            assert rendered(server, {"messages": turns}) == said
            assert made.template is not None
            assert render(made.template, turns) == said
            prompts.append(tokenizer(said, add_special_tokens=False)["input_ids"])
            assert tokenised(server, said) == prompts[-1]
        same = 0
        for parted, gap in greedy_pairs(server, model, prompts[-20:], 24, end=tokenizer.eos_token_id):
            assert not parted or gap < 1e-2
            same += not parted
    assert same >= 15  # near ties are rare


def test_a_tokenizer_that_only_passes_for_one_that_llama_cpp_knows_is_refused(
    smollm2: Path, tmp_path: Path, capsys: Any
):
    """Without its digits set apart it has the hash by which the converter knows SmolLM2's."""
    pytest.importorskip("xllamacpp", reason="pip install 'ftcli[gguf]'")
    tokenizer = json.loads((smollm2 / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"] = tokenizer["pre_tokenizer"]["pretokenizers"][1]
    (smollm2 / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert main(["export", str(smollm2), "--to", "gguf", "--out", str(tmp_path / "out")]) == 2
    assert "texts otherwise than its tokenizer, as 'Steps:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not [*tmp_path.glob(".staging*")]


def test_four_bits_are_smaller_than_eight_and_answer(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    """tests/external/test_served.py compares their answers with those of a run."""
    pytest.importorskip("xllamacpp", reason="pip install 'ftcli[gguf]'")
    program("llama-quantize", monkeypatch)
    files = {}
    for kind in ("q4_k_m", "q8_0"):
        capsys.readouterr()
        assert main(["export", str(smollm2), "--to", f"gguf:{kind}", "--out", str(tmp_path / kind), "--json"]) == 0
        note = json.loads(capsys.readouterr().out)["notes"][0]
        assert note.startswith(
            "read back by llama.cpp: 21 texts and all conversations are the tokens that were trained"
        )
        [files[kind]] = (tmp_path / kind).glob("*.gguf")
    # A fifth of it are token embeddings, which have 8 bits in both.
    assert files["q4_k_m"].stat().st_size < 0.75 * files["q8_0"].stat().st_size
    header = gguf_header(files["q4_k_m"])
    assert (header.mixture, header.weight_type) == ("Q4_K_M", "Q5_0")  # 256 does not divide its rows of 576
    with serving(files["q4_k_m"], "--ctx-size", "512") as server:
        turns = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = tokenised(server, rendered(server, {"messages": turns}))
        assert len(greedy(server, prompt, 8)) == 8
