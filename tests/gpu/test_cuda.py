"""What was built, on CUDA in bf16: a random-weight 1B Llama, one process, full and LoRA, SFT and DPO.

Skips itself without a GPU. Figures go to benchmarks/results/gpu.json when FTCLI_SAVE_RESULTS is set.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ftcli import tiny
from ftcli.runs import rundir
from tests.conftest import REPOSITORY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; run `make gpu` where there is one"),
]


@pytest.fixture(scope="module")
def billion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of the 3.2-1B layout with the tiny tokenizer (its vocabulary padded to the real size)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("billion")
    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, vocab_size=128256, tie_word_embeddings=True, max_position_embeddings=8192,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny.MODEL_DIR / name, folder / name)
    return folder


def keep(name: str, figures: dict[str, object]) -> None:
    """Add one run's figures to the results when asked to."""
    if not os.environ.get("FTCLI_SAVE_RESULTS"):
        return
    path = REPOSITORY / "benchmarks" / "results" / "gpu.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    known[name] = {**figures, "device": torch.cuda.get_device_name(), "torch": torch.__version__}
    path.write_text(json.dumps(known, indent=2) + "\n")


@pytest.mark.parametrize("peft", ["none", "lora"])
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_billion_parameters_train_in_bf16(method, peft, billion, tmp_path):
    command = [
        sys.executable, "-m", "ftcli", "train", f"method={method}", f"peft={peft}", "hardware=gpu", "run.dir=run",
        f"model.name_or_path={billion}", "train.max_steps=10", "train.logging_steps=1", "run.score_rows=0",
        "train.eval_strategy=no", "train.save_steps=5", "train.save_total_limit=1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    spec = json.loads((tmp_path / "run" / rundir.SPEC).read_text())
    assert spec["train"]["bf16"] is True
    assert spec["model"]["dtype"] == "bfloat16"
    result = rundir.read_result(tmp_path / "run")
    assert result["loss_last"] < result["loss_first"]
    keep(
        f"{method}-{peft}",
        {key: result[key] for key in ("seconds", "loss_first", "loss_last", "tokens_trained", "parameters")},
    )


@pytest.mark.parametrize("attention", ["flex_attention", "sdpa", "eager"])
def test_packed_documents_have_the_gradients_of_each_alone_on_a_gpu(attention):
    # Here and not in tests/worker since flex attention has no backward pass on CPU.
    from transformers import AutoModelForCausalLM, LlamaConfig

    from ftcli.worker.tokenise.collate import PackedBlocks

    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=160, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).to("cuda", torch.float32)
    lengths = [[7, 5, 1, 19], [32], [20, 3]]
    documents = [[torch.randint(3, 160, (length,)).tolist() for length in block] for block in lengths]
    ids = [[token for document in block for token in document] for block in documents]
    rows = [{"input_ids": row, "labels": row, "seq_lengths": each} for row, each in zip(ids, lengths, strict=True)]

    def gradients(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        for batch in batches:
            given = {name: value.cuda() for name, value in batch.items() if name != "attention_mask"}
            labels = given.pop("labels")[:, 1:].reshape(-1)
            logits = model(**given, use_cache=False).logits[:, :-1].flatten(0, 1)
            torch.nn.functional.cross_entropy(logits, labels, reduction="sum").div(80).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    alone = [
        {"input_ids": torch.tensor([document]), "labels": torch.tensor([document])}
        for block in documents
        for document in block
        if len(document) > 1
    ]
    packed, apart = gradients([PackedBlocks(pad_token_id=0)(rows)]), gradients(alone)
    assert max(float((packed[name] - apart[name]).abs().max()) for name in apart) < 1e-5


def test_a_stopped_gpu_run_resumes(billion, tmp_path):
    base = [sys.executable, "-m", "ftcli", "train"]
    words = [
        "peft=lora", "hardware=gpu", f"model.name_or_path={billion}", "train.save_steps=5", "run.dir=run",
        "train.max_steps=5", "train.eval_strategy=no", "run.score_rows=0",
    ]  # fmt: skip
    subprocess.run([*base, *words], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(
        [*base, "--resume", "run", "train.max_steps=10"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "from checkpoint-5" in done.stderr
    assert rundir.read_result(tmp_path / "run")["steps"] == 10


@pytest.mark.parametrize("data", [["data.streaming=true"], ["method.packing=true", "method.packing_strategy=bfd"]])
def test_rows_that_stream_or_are_packed_train_and_resume_on_a_gpu(data, billion, tmp_path):
    base = [sys.executable, "-m", "ftcli", "train"]
    words = [
        "peft=lora", "hardware=gpu", f"model.name_or_path={billion}", "train.save_steps=3", "run.dir=run",
        "train.max_steps=3", "train.eval_strategy=no", "run.score_rows=0", "data.max_length_tokens=128", *data,
        f"data.path={tiny.set_path('sft', 'train')}",
    ]  # fmt: skip
    done = subprocess.run([*base, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    more = [*base, "--resume", "run", "train.max_steps=6"]
    done = subprocess.run(more, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = rundir.read_result(tmp_path / "run")
    assert result["steps"] == 6
    assert result["ledger"]["train"]["trained_tokens"] > 0
