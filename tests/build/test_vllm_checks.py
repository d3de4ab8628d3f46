"""What vLLM can sample for: the versions that the installed TRL takes, and what TRL could not hand over to it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from ftcli.build.checks.vllm_rules import vllm_versions
from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.plan.outlook import plan

GRPO = ("method=grpo", "method.rewards.ended=1", "method.use_vllm=true", "run.dir=r")
ONE = ("hardware=gpu", "hardware.gpu=h100")
FOUR = ("hardware=multi_gpu", "hardware.gpu=h100", "hardware.num_processes=4")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes a vLLM of some version importable."""

    def make(version: str) -> None:
        folder = tmp_path / "packages"
        for name, text in {
            "vllm/__init__.py": "",
            f"vllm-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n",
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))

    return make


@pytest.fixture
def prompts(here) -> str:
    """Ten prompts, the longest at the end, as an override."""
    rows = [{"prompt": "word " * i} for i in range(1, 11)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return "data.path=rows.jsonl"


@pytest.mark.parametrize(
    ("version", "taken"),
    [("0.22.0", True), ("0.31.0", True), ("0.31", True), ("0.24.0+cu129", True), ("0.31.0rc1", True),
     ("0.21.9", False), ("0.31.1", False), ("0.32.0+cu130", False), ("1.0", False)],
)  # fmt: skip
def test_a_version_that_trl_does_not_take_is_refused(version, taken, install, prompts, problems, monkeypatch):
    from trl import import_utils

    monkeypatch.setattr(import_utils, "_is_package_available", lambda *_, **__: (True, version))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert import_utils.is_vllm_available()
    assert (said == []) is taken  # TRL itself only warns
    install(version)
    found = problems(*GRPO, *ONE, prompts, "model=qwen-4b")
    assert (found == []) is taken
    if not taken:
        [only] = found
        assert only.startswith("method.use_vllm=true")
        assert f"vLLM {version} is installed, and the installed TRL takes {' to '.join(vllm_versions() or ())}" in only
        assert "pip install 'vllm>=0.22.0,<=0.31.0'" in only


COLOCATED = [
    ((*FOUR, "method.vllm_tensor_parallel_size=8"), "method.vllm_tensor_parallel_size=8",
        "does not divide the 4 processes", "set it to 4"),
    ((*FOUR[:2], "hardware.num_processes=6", "method.vllm_tensor_parallel_size=6",
        "method.num_generations=6", "train.per_device_train_batch_size=6"),
        "method.vllm_tensor_parallel_size=6", "does not divide the model's 32 attention heads", "set it to 2"),
    ((*ONE, "peft=lora", "quantisation=nf4"), "method.use_vllm=true", "without the scales", "quantisation=none"),
    ((*ONE, "peft=prompt"), "peft=prompt", "cannot be merged", "peft=lora"),
    ((*ONE, "peft=adapter"), "peft=adapter", "cannot be merged", "peft=lora"),
    ((*ONE, "peft=adalora"), "peft=adalora", "rank counts", "peft=lora"),
    ((*ONE, "model=qwen", "peft=other", "peft.type=TRAINABLE_TOKENS", "peft.token_indices=[5]"), "peft=other",
        "a name that no model has", "peft=lora"),
    ((*ONE, "peft=lora", "peft.trainable_token_indices=[5]"), "peft.trainable_token_indices=[5]",
        "a name that no model has", "remove it"),
    ((*ONE, "peft=lora", "model.new_tokens=['<a>']"), "model.new_tokens", "vocabulary", "merge"),
    ((*ONE, "model=qwen-30b-a3b", "peft=lora", "method.vllm_gpu_memory_utilization=0.9"), "method.use_vllm=true",
        "all experts of a layer", "transformers"),
    ((*ONE, "method.max_completion_length=512", "method.vllm_max_model_length=512"),
        "method.vllm_max_model_length=512", "no prompt beside an answer of 512", "leave it out"),
    ((*ONE, "method.vllm_max_model_length=99999"), "method.vllm_max_model_length=99999",
        "more than the model's 40960 positions", "leave it out"),
    ((*ONE, "train.per_device_train_batch_size=8", "train.gradient_accumulation_steps=1024"), "method.use_vllm=true",
        "8192 answers together, and TRL gives it 4096", "accumulation"),
    # 8.19 billion weights of two bytes are 15.3 GiB, and an answer of 256 tokens takes 0.04 more
    ((*ONE, "model=qwen", "method.vllm_gpu_memory_utilization=0.1"), "method.vllm_gpu_memory_utilization=0.1",
        "take 15.3 GiB, and its share of the card is 8.0 GiB", "method.vllm_gpu_memory_utilization=0.2"),
    (("hardware=gpu", "hardware.gpu=t4", "model=qwen"), "method=grpo",
        "its share of the card is 4.5 GiB", "raise method.vllm_tensor_parallel_size"),
    ((*ONE, "method.generation_kwargs={seed: 3}"), "method.generation_kwargs", "every answer to a prompt alike",
        "a server by its own --seed"),
    ((*ONE, "method.generation_kwargs={n: 3}"), "method.generation_kwargs", "owned by method.num_generations", "use"),
    ((*ONE, "method.loss_type=vespo"), "method.loss_type=vespo", "weighs single tokens", "token_mask"),
    (("hardware=cpu",), "method.use_vllm=true", "on a GPU, and this run computes on a CPU", "transformers"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "place", "what", "fix"), COLOCATED)
def test_what_an_engine_cannot_take_is_refused_with_its_remedy(overrides, place, what, fix, install, prompts, problems):
    install("0.24.0")
    model = () if any(each.startswith("model=") for each in overrides) else ("model=qwen-4b",)
    [found] = problems(*GRPO, prompts, *model, *overrides)
    assert found.startswith(place)
    assert what in found
    assert fix in found.partition("fix: ")[2]


def test_a_rollout_of_ppo_is_answered_whole(install, prompts, problems):
    install("0.24.0")
    ppo = ("method=ppo", *GRPO[1:], prompts, *ONE, "model=qwen-4b", "method.num_mini_batches=4",
           "train.per_device_train_batch_size=8")  # fmt: skip
    assert problems(*ppo, "train.gradient_accumulation_steps=128") == []
    [found] = problems(*ppo, "train.gradient_accumulation_steps=256")
    assert "8192 answers together" in found
    [found] = problems(*ppo, "method.generation_batch_size=4")
    assert "method.generation_batch_size has no effect beside method.use_vllm=True" in found


def test_a_server_has_its_own_seed_and_needs_no_room_here(install, prompts, problems):
    install("0.24.0")
    server = "method.vllm_mode=server"
    assert problems(*GRPO, prompts, "hardware=gpu", "hardware.gpu=l4", "peft=lora", "model=qwen-14b", server) == []
    [found] = problems(*GRPO, prompts, *ONE, "model=qwen-4b", server, "method.generation_kwargs={seed: 3}")
    assert "a server by its own --seed" in found


def test_an_engine_that_starts_from_an_adapter_is_refused(install, prompts, problems, tmp_path):
    from ftcli import tiny

    install("0.24.0")
    folder = tmp_path / "adapter"
    folder.mkdir()
    declared = {"base_model_name_or_path": str(tiny.MODEL_DIR), "peft_type": "LORA", "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(declared), encoding="utf-8")
    here = (*GRPO, prompts, f"model.name_or_path={folder}")
    [found] = problems(*here, *ONE)
    assert "is an adapter, and a colocated vLLM loads a whole model from there" in found
    assert problems(*here, *ONE, "method.vllm_mode=server") == []


def test_a_multimodal_model_whose_text_model_is_trained_is_refused(install, prompts, problems, tmp_path):
    from transformers import Gemma3Config

    install("0.24.0")
    Gemma3Config(architectures=["Gemma3ForConditionalGeneration"]).save_pretrained(tmp_path / "model")
    found = problems(*GRPO, prompts, *ONE, f"model.name_or_path={tmp_path / 'model'}")
    assert any("is trained as its text model, and vLLM would load the whole of it" in each for each in found)


def test_a_plan_says_what_an_engine_is_given(install, prompts):
    install("0.24.0")
    own = (*GRPO, prompts, *ONE, "method.max_completion_length=20")
    notes = {note["key"]: note for note in plan(run_of(Request(overrides=own))).notes}
    longest = notes["method.vllm_max_model_length"]["value"]
    assert 30 < longest < 60
    # Ten more tokens of an answer make the longest sequence ten tokens longer; the longest prompt stays.
    longer = plan(run_of(Request(overrides=(*own, "method.max_completion_length=30")))).notes
    assert next(note["value"] for note in longer if note["key"] == "method.vllm_max_model_length") == longest + 10
    assert "computes in bfloat16" in notes["method.vllm_mode"]["why"]
    served = plan(run_of(Request(overrides=(*own, "method.vllm_mode=server")))).notes
    assert {note["key"] for note in served} & {"method.vllm_mode", "method.vllm_max_model_length"} == {
        "method.vllm_mode"
    }
    assert any("--dtype bfloat16" in note["why"] for note in served)


def test_a_group_of_processes_shares_the_weights_of_its_engine(install, prompts):
    install("0.24.0")
    four = (*GRPO, "model=qwen-4b", prompts, "hardware=multi_gpu", "hardware.num_processes=4")

    def engine(parallel: int) -> float:
        found = plan(run_of(Request(overrides=(*four, f"method.vllm_tensor_parallel_size={parallel}"))))
        assert found.memory is not None
        return found.memory.phases["sampling"]["vllm"]

    # 4.02 billion weights of two bytes are 7.49 GiB; each of two processes holds half of them
    assert engine(1) - engine(2) == pytest.approx(7.49 / 2, abs=0.01)
