"""Misuse of adapters and quantisation is told before anything loads: with its place, its reason and its remedy.

A run that trains the wrong thing, or nothing, ends as well as any other; only these rules stand before it. All of them
answer from files and settings, without torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.build.checks import adapter
from ftcli.build.resolve import spec_of
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core import hardware
from ftcli.core.hardware import Gpu
from ftcli.models import packing_support
from ftcli.models.read_config import shape_from_mapping
from ftcli.models.stored_quantisation import DEQUANTISED, FORMATS, stored_quantisation
from ftcli.peft_methods import PEFT_METHODS
from ftcli.peft_methods.other import IMPOSSIBLE, own_choices, tuner_configs
from ftcli.plan.memory import weight_bytes
from ftcli.settings.groups import ModelSettings
from ftcli.settings.run_spec import Note, RunSpec

TINY_HAS = "down_proj, embed_tokens, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"
VOLTA = Gpu("V100", 16.0, (7, 0))  # no int8 tensor cores, no bfloat16
AMPERE = Gpu("A100", 80.0, (8, 0))
GRADIENT_CHECKPOINTING = "train.gradient_checkpointing=true"


def specified(*overrides: str) -> RunSpec:
    return spec_of(Request(overrides=overrides))


def note_of(spec: RunSpec, key: str) -> Note:
    (found,) = [note for note in spec.notes if note.key == key]
    return found


@pytest.fixture
def with_gpus(monkeypatch):
    """Makes this machine one with these GPUs; the CPU that it really has knows none."""

    def fake(*gpus: Gpu) -> None:
        monkeypatch.setattr(hardware, "gpus", lambda: gpus)

    return fake


def model_folder(folder: Path, **changes: object) -> Path:
    """A folder with the tiny model's configuration, changed, and no weights: nothing here reads any."""
    folder.mkdir()
    config = json.loads((tiny.MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    return folder


def adapter_folder(folder: Path, kind: str, base: str = "builtin:tiny") -> Path:
    """A folder that says what a saved adapter of that type says."""
    folder.mkdir()
    declared = {"peft_type": kind, "base_model_name_or_path": base, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(declared), encoding="utf-8")
    return folder


# --- one mistake, one problem: the overrides, the place, words of the reason, words of the remedy ---------------------

ACROSS = "packed documents would attend to each other"
NO_CARRY = "which gradient checkpointing does not keep"
REFUSED = [
    # Packing with prompts that PEFT puts before the row as a whole.
    ("peft=prompt method.packing=true", "method.packing=true", ACROSS, "method.packing=false"),
    ("peft=prefix method.packing=true", "method.packing=true", ACROSS, "method.packing=false"),
    ("peft=p_tuning method.packing=true", "method.packing=true", ACROSS, "method.packing=false"),
    ("peft=p_tuning peft.deep=true method.packing=true", "method.packing=true", ACROSS, "method.packing=false"),
    ("peft=prefix method=pretrain method.packing=true", "method.packing=true", ACROSS, "method.packing=false"),
    ("peft=prefix method.padding_free=true", "method.padding_free=true", "owned by method.packing", "method.packing"),
    # Gradient checkpointing drops the cache through which a prefix reaches the layers.
    (f"peft=prefix {GRADIENT_CHECKPOINTING}", GRADIENT_CHECKPOINTING, NO_CARRY, "checkpointing=false"),
    (f"peft=p_tuning peft.deep=true {GRADIENT_CHECKPOINTING}", GRADIENT_CHECKPOINTING, NO_CARRY, "=false"),
    # The output head, by name, in a list and by a pattern that reaches it.
    ("peft=lora peft.target_modules=lm_head", "peft.target_modules=lm_head", "fused", "modules_to_save=[lm_head]"),
    ("peft=lora peft.target_modules=[q_proj,lm_head]", "peft.target_modules=[q_proj,lm_head]", "lm_head", "exclude it"),
    ("peft=lora peft.target_modules='.*head'", "peft.target_modules='.*head'", "includes lm_head", "modules_to_save"),
    ("peft=oft peft.target_modules=[lm_head]", "peft.target_modules=[lm_head]", "includes lm_head", "exclude it"),
    ("peft=other peft.type=LOHA peft.target_modules=[lm_head]", "peft.target_modules=[lm_head]", "fused", "exclude it"),
    # What the model has not, at the setting that names it.
    *(
        (f"{peft} peft.target_modules=[q_prj]", "peft.target_modules=[q_prj]", f"has {TINY_HAS}", "name modules")
        for peft in ("peft=lora", "peft=adalora", "peft=vera", "peft=oft", "peft=ia3", "peft=adapter",
                     "peft=other peft.type=LOHA")
    ),
    ("peft=other peft.type=LOKR peft.target_modules=.*prj", "peft.target_modules=.*prj", TINY_HAS, "name modules"),
    ("peft=freeze peft.modules=[q_prj]", "peft.modules=[q_prj]", TINY_HAS, "name modules"),
    ("peft=lora peft.modules_to_save=[hat]", "peft.modules_to_save=[hat]", TINY_HAS, "name modules"),
    ("peft=lora peft.exclude_modules='(('", "peft.exclude_modules='(('", "not a regular expression", "correct"),
    # One weight that is both embedding and head.
    ("peft=lora peft.modules_to_save=[lm_head]", "peft.modules_to_save=[lm_head]", "share one weight", "weight_tying"),
    ("peft=oft peft.modules_to_save=[embed_tokens]", "peft.modules_to_save=[embed_tokens]", "[embed_tokens] would", ""),
    # Quantised weights are frozen.
    ("quantisation=nf4", "quantisation=nf4", "with peft=none: quantised weights cannot be trained", "peft=qlora"),
    ("peft=freeze quantisation=nf4", "quantisation=nf4", "trains base weights, which", "quantisation=none"),
    ("peft=qlora quantisation=none", "quantisation=none", "needs a 4-bit base model", "quantisation=nf4_double"),
    ("peft=qlora quantisation=int8", "quantisation=int8", "needs a 4-bit base model", "or peft=lora"),
    ("peft=lora quantisation.type=nf4", "quantisation.type=nf4", "is set by the choice of quantisation", "NAME"),
    ("peft=qlora model.init=random", "model.init=random", "base weights are not saved", "model.init=pretrained"),
    ("peft=lora model.init=random", "model.init=random", "base weights are not saved", "peft=none"),
    # Starts that take something out of the weights, and tuners that need them whole.
    ("peft=pissa quantisation=nf4", "quantisation=nf4", "a part of the base weights", "peft=lora"),
    ("peft=lora peft.init_lora_weights=pissa_niter_4 quantisation=int8", "quantisation=int8", "pissa_niter_4", "lora"),
    ("peft=qlora peft.init_lora_weights=olora", "peft=qlora", "init_lora_weights=olora", "quantisation=none"),
    # A method's own settings.
    ("peft=dora peft.use_dora=false", "peft.use_dora=false", "always true under peft=dora", "another peft="),
    ("peft=dora peft.init_lora_weights=pissa", "peft.init_lora_weights=pissa", "cannot be combined with", "remove"),
    ("peft=pissa peft.init_lora_weights=gaussian", "peft.init_lora_weights=gaussian", "not a value", "pissa_niter_"),
    ("peft=adalora peft.target_r=24", "peft.target_r=24", "is not below peft.init_r=24", "peft=lora"),
    ("peft=adalora peft.target_r=9 peft.init_r=8", "peft.target_r=9", "not below peft.init_r=8", "below peft.init_r"),
    ("peft=adalora peft.total_step=9", "peft.total_step=9", "the run's number of steps", "remove it"),
    ("peft=adalora peft.use_dora=true", "peft.use_dora=true", "AdaLoRA has its own", "remove it"),
    ("peft=adalora peft.init_lora_weights=pissa", "peft.init_lora_weights=pissa", "initialisation", "remove it"),
    ("peft=oft peft.r=8", "peft.r=8", "peft.oft_block_size=32: one must be 0", "peft.oft_block_size=0"),
    ("peft=prompt peft.prompt_tuning_init=TEXT", "peft.prompt_tuning_init=TEXT", "not set", "prompt_tuning_init_text="),
    ("peft=p_tuning peft.deep=true peft.prefix_projection=true", "peft.prefix_projection=true", "no projection", ""),
    ("peft=freeze peft.num_layers=0", "peft.num_layers=0", "trains nothing", "set peft.modules"),
    # Adapters are no methods.
    ("method=lora", "method=lora", "lora is a choice of peft, not of method", "ftcli train peft=lora"),
    ("method=prefix", "method=prefix", "prefix is a choice of peft, not of method", "ftcli train peft=prefix"),
    # peft=other.
    ("peft=other", "peft=other", "needs peft.type", "LOHA"),
    ("peft=other peft.type=LOHAA", "peft.type=LOHAA", "not a tuner of PEFT", "did you mean peft.type=LOHA?"),
    ("peft=other peft.type=loha", "peft.type=loha", "not a tuner of PEFT", "did you mean peft.type=LOHA?"),
    ("peft=other peft.type=LORA", "peft.type=LORA", "has its own choice", "peft=lora"),
    ("peft=other peft.type=XLORA", "peft.type=XLORA", "already trained adapters", "LOHA"),
    ("peft=freeze peft.num_layers=9", "peft.num_layers=9", "more than the 4 layers", "correct it"),
    ("peft=other peft.type=LOHA peft.rank=3", "peft.rank=3", "option of peft=other peft.type=LOHA", "peft.r=3"),
    ("peft=other peft.type=TRAINABLE_TOKENS peft.token_indices=[5]", "peft=other", "shares the embedding's", "another"),
    ("peft=other peft.type=ADAPTION_PROMPT", "peft.type=ADAPTION_PROMPT", "misses its log-probabilities", "LOHA"),
    ("peft=other peft.type=LOHA peft.lora_alpha=3", "peft.lora_alpha=3", "not an option", "did you mean peft.alpha?"),
    ("peft=other peft.type=LOHA peft.zeal=3", "peft.zeal=3", "not an option",
        "module_dropout, modules_to_save, r, rank_"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "where", "reason", "remedy"), REFUSED, ids=[case[0] for case in REFUSED])
def test_misuse_is_told_once_with_its_place_its_reason_and_its_remedy(problems, here, overrides, where, reason, remedy):
    (found,) = problems(*overrides.split(" "))
    told, _, fix = found.partition("\n  fix: ")
    assert told.startswith(f"{where}  ")
    assert reason in told
    assert remedy in fix


@pytest.mark.parametrize(
    "overrides",
    [
        "peft=prompt method.packing=false",
        f"peft=prompt {GRADIENT_CHECKPOINTING}",  # its vectors are embeddings and no cache
        f"peft=p_tuning {GRADIENT_CHECKPOINTING}",
        "peft=prompt peft.prompt_tuning_init=TEXT peft.prompt_tuning_init_text=Answer",
        "peft=lora peft.modules_to_save=[lm_head] peft.ensure_weight_tying=true",
        "peft=freeze peft.modules=[embed_tokens] peft.num_layers=0",
        "peft=dora peft.use_dora=true",
        "peft=dora quantisation=nf4",
        "peft=adalora quantisation=nf4",
        "peft=lora quantisation=int8",
        "peft=ia3 quantisation=fp4",
        "peft=adalora peft.target_r=7 peft.init_r=8",
        "peft=oft peft.r=8 peft.oft_block_size=0",
        "peft=other peft.type=LOHA peft.r=8 peft.target_modules=[q_proj]",
        "peft=other peft.type=LN_TUNING peft.target_modules=[input_layernorm]",
        "model.init=random",
    ],
)
def test_what_is_near_to_misuse_and_right_is_left_alone(problems, here, overrides):
    assert problems(*overrides.split(" ")) == []


def test_an_adapter_that_the_architecture_cannot_carry_is_refused_at_its_choice(problems, here):
    folder = model_folder(here / "base", model_type="gpt2", architectures=["GPT2LMHeadModel"], n_embd=32, n_layer=2)
    (found,) = problems(f"model.name_or_path={folder}", "peft=oft")
    assert found.startswith("configs/peft/oft.yaml")  # which names all linear layers
    assert "GPT-2's layers are Conv1D" in found
    assert found.endswith("fix: correct it, or choose another peft=")


def test_nothing_of_it_loads_a_library(here):
    # The whole table in a process of its own, which then looks at what it has imported.
    code = (
        "import sys, json\n"
        "from ftcli.build.resolve import spec_of\nfrom ftcli.config.compose import Request\n"
        "from ftcli.core.errors import ConfigError\n"
        "for line in json.loads(sys.stdin.read()):\n"
        "    try: spec_of(Request(overrides=tuple(line.split(' '))))\n"
        "    except ConfigError: continue\n"
        "    raise SystemExit(f'{line} passed')\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'bitsandbytes'} & sys.modules.keys()\n"
        "raise SystemExit(f'loaded {heavy}' if heavy else 0)\n"
    )
    lines = json.dumps([case[0] for case in REFUSED[::6]])
    done = subprocess.run([sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_type_of_peft_has_a_choice_or_a_reason_or_is_left_to_other():
    # An upgrade that brings a tuner is seen by the matrix; one that renames one, here.
    assert own_choices() == {
        "LORA": "lora", "ADALORA": "adalora", "VERA": "vera", "OFT": "oft", "IA3": "ia3", "PREFIX_TUNING": "prefix",
        "P_TUNING": "p_tuning", "PROMPT_TUNING": "prompt",
    }  # fmt: skip
    assert own_choices().keys() == {method.kind for method in PEFT_METHODS.values()} - {"", "BOTTLENECK"}
    assert own_choices().keys() | IMPOSSIBLE.keys() <= tuner_configs().keys()


# --- sharded weights --------------------------------------------------------------------------------------------------

FSDP = "train.fsdp=true"
ZERO3 = "train.deepspeed={zero_optimization: {stage: 3, stage3_gather_16bit_weights_on_model_save: true}}"
TWO = ("hardware=cpu", "hardware.num_processes=2")


@pytest.mark.parametrize("key", [FSDP, ZERO3])
def test_4_bit_weights_are_sharded_as_the_type_that_is_computed_in(here, with_gpus, key):
    with_gpus(AMPERE, AMPERE)
    lora = ("peft=lora", "quantisation=nf4")
    assert spec_of(Request(overrides=(key, *TWO, *lora))).shard_dtype == "float32"
    cards = (key, "hardware=multi_gpu", *lora)
    assert spec_of(Request(overrides=cards)).shard_dtype == "bfloat16"
    fp16 = spec_of(Request(overrides=(*cards, "train.fp16=true", "train.bf16=false")))
    assert fp16.shard_dtype == "float16"
    # Whole in each process: uint8, as bitsandbytes has it.
    for stage in (0, 1, 2):
        zero = f"train.deepspeed={{zero_optimization: {{stage: {stage}}}}}"
        assert spec_of(Request(overrides=(zero, *TWO, *lora))).shard_dtype is None
    assert spec_of(Request(overrides=(*TWO, *lora))).shard_dtype is None


@pytest.mark.parametrize("key", [FSDP, ZERO3])
def test_quantised_weights_that_nothing_shards_are_refused_where_weights_are_sharded(problems, here, key, kernels):
    kernels("gptqmodel", "optimum", "bitsandbytes", "deepspeed")
    name = key.partition("=")[0]
    (found,) = problems(*TWO, key, "peft=lora", "quantisation=int8")
    assert found.startswith(f"quantisation=int8  with {name} each process would hold all of the quantised weights")
    assert f"remove {name}" in found
    for declared, reason in (
        ({"quant_method": "gptq", "bits": 4}, "is stored quantised (gptq)"),
        ({"load_in_8bit": True}, "8-bit layers"),
        ({"load_in_4bit": True}, "is stored quantised (bitsandbytes)"),
        ({"load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"}, "is stored quantised (bitsandbytes)"),
    ):
        folder = model_folder(here / f"base-{len(list(here.iterdir()))}", quantization_config=declared)
        (found,) = problems(f"model.name_or_path={folder}", *TWO, key, "peft=lora")
        assert reason in found
    same = model_folder(here / "same", quantization_config={"load_in_4bit": True, "bnb_4bit_quant_storage": "float32"})
    assert problems(f"model.name_or_path={same}", *TWO, key, "peft=lora") == []
    plain = model_folder(here / "plain", quantization_config={"quant_method": "fp8"})  # which becomes plain
    assert problems(f"model.name_or_path={plain}", *TWO, key, "peft=lora") == []
    assert problems(*TWO, "train.deepspeed={zero_optimization: {stage: 2}}", "peft=lora", "quantisation=int8") == []


def test_a_deepspeed_file_shards_as_its_mapping_does(problems, here):
    whole = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}
    (here / "zero.json").write_text(json.dumps({"zero_optimization": whole}), encoding="utf-8")
    (found,) = problems(*TWO, "train.deepspeed=zero.json", "peft=lora", "quantisation=int8")
    assert "each process would hold all of the quantised weights" in found


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("peft=pissa", {"fsdp", "zero3"}),
        ("peft=lora peft.init_lora_weights=olora", {"fsdp", "zero3"}),
        ("peft=adalora", {"fsdp", "zero2", "zero3"}),
        ("peft=vera", {"fsdp"}),
        ("peft=prompt", {"fsdp", "zero3"}),
        ("peft=prefix", {"fsdp", "zero3"}),
        ("peft=p_tuning", {"fsdp", "zero3"}),
        ("peft=lora", set()),
        ("peft=dora", set()),
    ],
)
def test_an_adapter_that_needs_what_sharding_takes_is_refused_with_it(problems, here, words, refused):
    for profile in ("multi_gpu", "fsdp", "zero2", "zero3"):
        found = problems(f"hardware={profile}", "hardware.device=cpu", *words.split(" "))
        assert any("with train." in each for each in found) == (profile in refused), found
        assert len(found) == (profile in refused)


def test_the_first_version_of_fsdp_takes_no_adapter_on_4_bits(problems, here):
    first = "train.fsdp_config={version: 1}"
    (found,) = problems(*TWO, FSDP, first, "peft=lora", "quantisation=nf4")
    assert found.startswith(f"{first}  version 1 of FSDP shards weights of one type only")
    assert problems(*TWO, FSDP, first, "peft=lora") == []


# --- the device -------------------------------------------------------------------------------------------------------


def test_int8_wants_a_gpu_that_multiplies_in_8_bits(problems, here, with_gpus):
    with_gpus(VOLTA)
    (found,) = problems("peft=lora", "quantisation=int8", "hardware=gpu")
    assert found.startswith("quantisation=int8  quantisation=int8 needs compute capability 7.5; V100 has 7.0")
    assert "fix: quantisation=nf4_double" in found
    assert problems("peft=lora", "quantisation=nf4", "hardware=gpu") == []  # from 6.0 on
    assert problems("peft=lora", "quantisation=int8", "hardware=cpu") == []


def test_one_gpu_of_several_that_is_too_old_is_enough_to_refuse(problems, here, with_gpus):
    with_gpus(AMPERE, VOLTA, VOLTA)
    assert len(problems("peft=lora", "quantisation=int8", "hardware=multi_gpu")) == 1
    with_gpus(AMPERE)
    assert problems("peft=lora", "quantisation=int8", "hardware=multi_gpu") == []


def test_no_4_bits_before_pascal(problems, here, with_gpus):
    with_gpus(Gpu("M60", 8.0, (5, 2)))
    (found,) = problems("peft=qlora", "hardware=gpu")
    assert "quantisation=nf4_double needs compute capability 6.0; M60 has 5.2" in found


# --- a base that is quantised already ---------------------------------------------------------------------------------


@pytest.fixture
def kernels(monkeypatch):
    """Says which kernel packages are there, whatever this environment has."""

    def fake(*names: str) -> None:
        monkeypatch.setattr(adapter, "is_installed", lambda package: package in names)

    return fake


@pytest.mark.parametrize(
    ("stored", "package"),
    [("awq", "gptqmodel"), ("sinq", "sinq"), ("compressed-tensors", "compressed_tensors"), ("aqlm", "aqlm")],
)
def test_a_quantised_model_needs_an_adapter_and_its_kernels(problems, here, kernels, stored, package):
    folder = model_folder(here / "base", quantization_config={"quant_method": stored})
    model = f"model.name_or_path={folder}"
    kernels(package)
    assert problems(model, "peft=lora") == []
    (found,) = problems(model)
    assert f"{model}  {folder} is quantised ({stored}), and quantised weights cannot be trained" in found
    assert "choose peft=lora" in found
    assert len(problems(model, "peft=freeze")) == 1
    kernels()
    (found,) = problems(model, "peft=lora")
    assert f"is quantised ({stored}) and needs the package {package}, which is not installed" in found
    assert f"fix: pip install {package.replace('_', '-')}" in found


@pytest.mark.parametrize("stored", [name for name, each in FORMATS.items() if each.loads == DEQUANTISED])
def test_a_format_that_becomes_plain_weights_trains_as_they_do(problems, here, kernels, stored):
    kernels()
    model = f"model.name_or_path={model_folder(here / 'base', quantization_config={'quant_method': stored})}"
    for peft in ("peft=lora", "peft=none", "peft=freeze", "peft=pissa", "peft=adalora"):
        assert problems(model, peft) == []
    (found,) = problems(model, "peft=lora", "quantisation=nf4")
    assert "would quantise it again" in found


REFUSED = [name for name, each in FORMATS.items() if each.refuses({"quant_method": name})]


@pytest.mark.parametrize("stored", REFUSED)
def test_a_format_above_which_nothing_trains_is_refused_with_the_reason(problems, here, kernels, stored):
    kernels(*{package for each in FORMATS.values() for package in each.packages})
    model = f"model.name_or_path={model_folder(here / 'base', quantization_config={'quant_method': stored})}"
    (found,) = problems(model, "peft=lora")
    assert f"is quantised ({stored}): {FORMATS[stored].refuses({'quant_method': stored})}" in found
    assert "fix: name the model that it was made from" in found


def test_a_prefix_is_made_by_an_mlp_unless_that_is_switched_off():
    rates = {}
    for words in (("peft=lora",), ("peft=prefix",), ("peft=prefix", "peft.prefix_projection=false")):
        spec = specified("method=sft", "model=tiny", "hardware=cpu", *words)
        rates[words] = float(spec.train["learning_rate"])
        if words == ("peft=prefix",):
            assert spec.peft["prefix_projection"] is True
    lora, made, direct = rates.values()
    assert (made, direct) == (pytest.approx(lora), pytest.approx(50 * lora))
    deep = specified("method=sft", "model=tiny", "hardware=cpu", "peft=p_tuning", "peft.deep=true")
    assert not deep.peft.get("prefix_projection")
    assert float(deep.train["learning_rate"]) == pytest.approx(50 * lora)


def test_a_format_of_gpus_alone_says_so_on_a_cpu(problems, here, kernels):
    kernels("kernels")
    folder = model_folder(here / "base", quantization_config={"quant_method": "eetq"})
    (found,) = problems(f"model.name_or_path={folder}", "peft=lora", "hardware=cpu")
    assert "its kernels run on CUDA only" in found


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        # 4 bits, and per 128 weights a scale of 2 bytes and a zero point of 4 bits.
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 0.5 + 2.5 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 1.0),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, 0.5 + 2.5 / 64),
        ({"load_in_8bit": True}, 1.0),
        ({"load_in_4bit": True}, 0.5 + 4 / 64),
        ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 0.5 + 1 / 64 + 4 / (64 * 256)),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {
            "num_bits": 4, "group_size": 32, "symmetric": True}}}}, 0.5 + 2 / 32),
        ({"quant_method": "aqlm", "num_codebooks": 1, "nbits_per_codebook": 16, "in_group_size": 8,
          "out_group_size": 1}, 0.25),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}, 1.0),
        ({"quant_method": "sinq", "nbits": 4, "group_size": 64}, 0.5 + 2.5 / 64),
        # Becomes plain weights, whose bytes are those of model.dtype.
        ({"quant_method": "fp8"}, None),
        ({"quant_method": "gptq", "bits": "four"}, None),
    ],
)  # fmt: skip
def test_the_bytes_of_a_stored_weight_are_those_that_its_configuration_gives(here, declared, expected):
    folder = model_folder(here / "base", quantization_config=declared)
    stored = stored_quantisation(ModelSettings(name_or_path=str(folder)))
    assert stored is not None
    assert stored.weight_bytes() == (None if expected is None else pytest.approx(expected))


def test_the_plan_counts_a_stored_model_in_its_own_bits(here, kernels, problems):
    # 16 bits of the whole model; then 4.156 bits of its linear layers, the rest as before.
    kernels("gptqmodel", "optimum")
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    declared = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    shape = shape_from_mapping({"model_type": "llama", "vocab_size": 1000, **sizes})
    linear = 4 * (4 * 256 * 256 + 3 * 256 * 512)
    total = linear + 2 * 1000 * 256 + (2 * 4 + 1) * 256
    expected = (linear * (0.5 + 2.5 / 128) + (total - linear) * 2) / total
    folder = model_folder(here / "base", quantization_config=declared)
    stored = stored_quantisation(ModelSettings(name_or_path=str(folder)))
    assert weight_bytes(shape, "bfloat16", "none", stored.weight_bytes()) == pytest.approx(expected)


def test_a_quantised_model_is_not_quantised_again(problems, here, kernels):
    kernels("gptqmodel", "optimum")
    folder = model_folder(here / "base", quantization_config={"quant_method": "gptq", "bits": 4})
    model = f"model.name_or_path={folder}"
    (found,) = problems(model, "peft=lora", "quantisation=nf4")
    assert found.startswith(
        f"quantisation=nf4  {folder} is already quantised (gptq); quantisation=nf4 would quantise it again"
    )
    assert found.endswith("fix: quantisation=none")
    # qlora brings one along, and would not take none: its remedy must lead out.
    (found,) = problems(model, "peft=qlora")
    assert found.endswith("fix: quantisation=none peft=lora")
    assert problems(model, "quantisation=none", "peft=lora") == []


def test_pissa_finds_no_singular_vectors_in_a_model_stored_in_few_bits(problems, here, kernels):
    kernels("gptqmodel", "optimum")
    folder = model_folder(here / "base", quantization_config={"quant_method": "gptq"})
    (found,) = problems(f"model.name_or_path={folder}", "peft=pissa")
    assert "is quantised (gptq); peft=pissa: init_lora_weights=pissa moves a part of the base weights" in found


def test_the_kernels_of_this_environment_are_looked_for(problems, here):
    # Not faked: bitsandbytes is a dependency of ours, no package has the other name.
    assert adapter.is_installed("bitsandbytes")
    assert not adapter.is_installed("no_such_parent.quanto")
    folder = model_folder(here / "base", quantization_config={"load_in_4bit": True})
    assert problems(f"model.name_or_path={folder}", "peft=lora") == []
    strange = model_folder(here / "strange", quantization_config={"quant_method": "no_such_kernels"})
    (found,) = problems(f"model.name_or_path={strange}", "peft=lora")
    assert "is quantised (no_such_kernels): the installed transformers does not know this format" in found


def test_a_run_on_an_adapter_whose_base_stays_quantised_would_round_it_again(problems, here):
    base = model_folder(here / "base", quantization_config={"load_in_4bit": True})
    adapter_folder(here / "first", "LORA", base=str(base))
    (found,) = problems(f"model.name_or_path={here / 'first'}", "peft=lora")
    assert "would merge it, which rounds the merged weights again" in found


# --- a model that ends in an adapter ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "P_TUNING", "PROMPT_TUNING", "BOTTLENECK", "BEFT"])
def test_a_run_on_an_adapter_that_cannot_be_merged_is_refused(problems, here, kind):
    folder = adapter_folder(here / "first", kind)
    (found,) = problems(f"model.name_or_path={folder}", "peft=lora")
    assert found.startswith(f"model.name_or_path={folder}  {folder} contains a {kind} adapter")
    assert "start from its base model" in found


def test_it_is_found_at_the_bottom_of_a_stack_as_well(problems, here):
    prefix = adapter_folder(here / "prefix", "PREFIX_TUNING")
    lora = adapter_folder(here / "lora", "LORA", base=str(prefix))
    assert len(problems(f"model.name_or_path={lora}")) == 1
    plain = adapter_folder(here / "plain", "LORA")
    assert problems(f"model.name_or_path={plain}") == []


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("PREFIX_TUNING", "are not part of any weight"),
        ("BOTTLENECK", "a nonlinearity between"),
        ("LILY", "its tuner does not implement merging"),
    ],
)
def test_merging_it_ends_with_2_and_the_reason(capsys, here, kind, reason):
    adapter_folder(here / "trained", kind)
    assert main(["merge", "./trained"]) == 2
    error = capsys.readouterr().err
    assert f"a {kind} adapter cannot be merged" in error
    assert reason in error
    assert "Traceback" not in error
    assert not (here / "trained-merged").exists()


# --- what is derived, and why -----------------------------------------------------------------------------------------


def test_qlora_brings_its_quantisation_along_and_says_so(here):
    spec = specified("peft=qlora")
    assert spec.quantisation.type == "nf4_double"
    assert note_of(spec, "quantisation.type").value == "nf4_double"
    assert "implied by peft=qlora" in note_of(spec, "quantisation.type").why


@pytest.mark.parametrize("kind", ["nf4", "fp4", "nf4_double"])
def test_qlora_takes_what_else_was_chosen_in_4_bits(here, kind):
    spec = specified("peft=qlora", f"quantisation={kind}")
    assert spec.quantisation.type == kind
    assert "quantisation.type" not in [note.key for note in spec.notes]  # someone typed it


def test_packing_is_on_where_it_is_exact_and_off_with_the_reason_elsewhere(here):
    assert note_of(specified(), "method.packing").value is True
    assert note_of(specified("peft=lora"), "method.packing").value is True
    note = note_of(specified("peft=prefix"), "method.packing")
    assert (note.value, note.why) == (False, PEFT_METHODS["prefix"].never_packs)
    assert "attend to each other" in note.why


@pytest.mark.parametrize("model_type", ["opt", "olmo3"])
def test_packing_is_off_for_an_architecture_that_is_not_known_to_be_exact(here, model_type):
    assert model_type not in packing_support.PACKS_EXACTLY
    config = {"model_type": model_type, "architectures": ["X"], "word_embed_proj_dim": 160, "ffn_dim": 432}
    folder = model_folder(here / "base", **config)
    note = note_of(specified(f"model.name_or_path={folder}"), "method.packing")
    assert note.value is False
    assert "architecture is not known to keep packed documents apart" in note.why


def test_packing_that_somebody_set_is_no_derived_value(here):
    spec = specified("method.packing=false")
    assert spec.method["packing"] is False
    assert "method.packing" not in [note.key for note in spec.notes]


@pytest.mark.parametrize(
    ("peft", "value"),
    [("none", True), ("lora", True), ("prompt", True), ("p_tuning", True), ("prefix", False)],
)
def test_gradient_checkpointing_is_on_for_gpus_but_for_what_it_breaks(here, with_gpus, peft, value):
    with_gpus(AMPERE)
    note = note_of(specified(f"peft={peft}", "hardware=gpu"), "train.gradient_checkpointing")
    assert note.value is value
    if not value:
        assert note.why == PEFT_METHODS[peft].never_checkpoints


def test_gradient_checkpointing_is_off_for_deep_p_tuning_too(here, with_gpus):
    with_gpus(AMPERE)
    spec = specified("peft=p_tuning", "peft.deep=true", "hardware=gpu")
    assert note_of(spec, "train.gradient_checkpointing").value is False


@pytest.mark.parametrize(
    ("gpu", "hardware_choice", "kind", "why"),
    [
        (None, "cpu", "float32", "the CPU computes in float32"),
        (AMPERE, "gpu", "bfloat16", "the GPU supports it"),
        (VOLTA, "gpu", "float16", "the GPU does not support bfloat16"),
        (None, "gpu", "bfloat16", "the GPU supports it"),  # planned for a machine that is not this one
    ],
)
def test_4_bits_are_multiplied_in_what_the_device_has(here, with_gpus, gpu, hardware_choice, kind, why):
    with_gpus(*([gpu] if gpu else []))
    spec = specified("peft=qlora", f"hardware={hardware_choice}")
    assert spec.quantisation.compute_dtype == kind
    note = note_of(spec, "quantisation.compute_dtype")
    assert (note.value, note.why) == (kind, why)


@pytest.mark.parametrize("multiplies", [True, False, None])
def test_a_cpu_that_multiplies_in_bfloat16_trains_in_float32_and_says_what_it_could(here, multiplies, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_multiplies_bfloat16", lambda: multiplies)
    note = note_of(specified("hardware=cpu"), "train.bf16")
    assert (note.value, "train.bf16=true takes about half the time" in note.why) == (False, multiplies is True)


def test_int8_has_no_type_to_choose_and_a_type_that_was_chosen_stays(here):
    assert "quantisation.compute_dtype" not in [n.key for n in specified("peft=lora", "quantisation=int8").notes]
    spec = specified("peft=qlora", "quantisation.compute_dtype=bfloat16")
    assert spec.quantisation.compute_dtype == "bfloat16"


def test_fsdp_offloads_on_a_gpu_alone(problems, here):
    (found,) = problems("hardware=fsdp_offload", "hardware.device=cpu")
    assert "offloads to memory that a GPU has pinned" in found
    assert problems("hardware=zero3_offload", "hardware.device=cpu") == []
