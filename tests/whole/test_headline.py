"""The headline command, offline, on a hub cache that holds a random two-layer model under the real id."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ftcli import tiny
from ftcli.runs import rundir
from tests.whole.conftest import Train

CANARY = "canary-5f1d2c"
HUB_ID = "meta-llama/Llama-3.1-8B-Instruct"


def cache_a_model(home: Path) -> None:
    """Lay a small random Llama into a hub cache as a download would."""
    repository = home / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=1024,
    )
    LlamaForCausalLM(config).save_pretrained(snapshot)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny.MODEL_DIR / name, snapshot / name)


def test_ftcli_train_method_dpo_model_llama(tmp_path, ftcli_run: Train):
    cache_a_model(tmp_path / "hub-home")
    done = ftcli_run(
        "train", "method=dpo", "model=llama", "train.max_steps=2", "data.max_rows=32", "data.max_eval_rows=8",
        "hardware=cpu", "hardware.num_threads=1", "--anyway",  # the room of the real model of that name may not be here
        cwd=tmp_path,
        HF_TOKEN=CANARY, OPENAI_API_KEY=CANARY, MY_PASSWORD=CANARY, HF_HOME=str(tmp_path / "hub-home"),
        HF_HUB_CACHE=str(tmp_path / "hub-home" / "hub"),
    )  # fmt: skip
    [run] = (tmp_path / "runs" / "dpo-llama").iterdir()
    assert abs(rundir.read_result(run)["loss_first"] - 0.693147) < 1e-4
    assert (run / rundir.MODEL / "model.safetensors").is_file()
    assert "dpo of meta-llama/Llama-3.1-8B-Instruct" in done.stdout
    # No secret of the environment lands in the run directory, its log, or what was printed.
    written = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    assert not any(CANARY.encode() in content for content in written)
    assert CANARY not in done.stdout + done.stderr
