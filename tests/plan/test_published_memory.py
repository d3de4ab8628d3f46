"""Estimates beside peaks that others have published, each row with its source's conditions as settings.

No setting is left to a default of the project, so that a changed default can neither pass nor break a row. Sources: the
README and docs of torchtune; PEFT's method_comparison on an L40S; litgpt's config hub and tutorials; Qwen's README;
Unsloth's docs, column "Hugging Face + FA2"; the table of LLaMA-Factory's README; the QLoRA paper (arXiv:2305.14314).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import yaml

from ftcli.models.parameters import num_parameters
from ftcli.models.read_config import shape_from_mapping
from ftcli.models.shape import Shape
from ftcli.peft_methods.lora_counts import lora_parameters
from ftcli.plan.activations import Pass
from ftcli.plan.memory import Surroundings, Weights, estimate, weight_bytes
from ftcli.plan.sharded_memory import Sharding
from tests.conftest import REPOSITORY


def shipped(name: str) -> Shape:
    return shape_from_mapping(yaml.safe_load((REPOSITORY / "configs" / "model" / f"{name}.yaml").read_text())["shape"])


def decoder(hidden: int, layers: int, heads: int, inner: int, vocabulary: int, model_type: str = "llama") -> Shape:
    """A model without grouped queries and with a head of its own."""
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"num_key_value_heads": heads, "intermediate_size": inner, "vocab_size": vocabulary}
    return shape_from_mapping({**sizes, "model_type": model_type, "tie_word_embeddings": False})


MODELS = {
    "Llama 3.1 8B": shipped("llama"),
    "Llama 3.2 3B": shipped("llama-3b"),
    "Llama 3.3 70B": shipped("llama-70b"),
    "Llama 2 7B": shipped("llama-2-7b"),
    "Llama 2 13B": decoder(5120, 40, 40, 13824, 32000),
    "Llama 65B": decoder(8192, 80, 64, 22016, 32000),
    "Qwen 1.8B": decoder(2048, 24, 16, 5504, 151936, "qwen2"),
    "Qwen 7B": decoder(4096, 32, 32, 11008, 151936, "qwen2"),
    "Qwen 14B": decoder(5120, 40, 40, 13696, 152064, "qwen2"),
}

Targets = tuple[str, ...] | Literal["all-linear"]
QV: Targets = ("q_proj", "v_proj")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published peak and the conditions under which it was measured."""

    source: str
    model: str
    published_gib: float
    rows: int
    length: int
    rank: int = 0
    """Rank of LoRA's matrices; 0 trains all parameters."""
    targets: Targets = "all-linear"
    trained: int | None = None
    """Parameters of an adapter that is not LoRA."""
    stored: str = "none"
    plain: str = "bfloat16"
    """Type of what is not quantised; `prepare_model_for_kbit_training` turns it to float32."""
    trained_bytes: float = 4.0
    """Bytes of each parameter that trains: 4 as PEFT upcasts them and under AMP, 2 in pure bfloat16."""
    compute_bytes: int = 2
    checkpointing: bool = True
    whole_logits: bool = True
    masked: bool = False
    compiled: bool = False
    accumulates: bool = False
    optim: str = "adamw_torch"
    card: bool = True
    """Whether the figure is that of the card (its driver, or the largest length that fits) and not the allocator's."""
    off: str = ""
    """Why the row is known to be further off than 15%."""

    @property
    def name(self) -> str:
        how = f"r{self.rank}" if self.rank else "full" if self.trained is None else "adapter"
        return f"{self.source} {self.model} {how} {self.stored} {self.rows}x{self.length}".replace(" ", "-")


TUNE: dict[str, Any] = {"source": "torchtune", "trained_bytes": 2.0, "card": False}
# Batches of four padded rows, so sdpa is given a mask; AdaLoRA starts from rank 64.
PEFT: dict[str, Any] = {
    "source": "PEFT", "model": "Llama 3.2 3B", "rows": 4, "length": 768, "targets": QV, "checkpointing": False,
    "masked": True, "card": False,
}  # fmt: skip
# The adapter in bfloat16, the head's loss in chunks.
LIT: dict[str, Any] = {
    "source": "litgpt", "length": 512, "targets": QV, "trained_bytes": 2.0, "checkpointing": False,
    "whole_logits": False, "card": False,
}  # fmt: skip
QWEN: dict[str, Any] = {"source": "Qwen", "rows": 1, "rank": 64}
KBIT: dict[str, Any] = {"source": "Unsloth", "rows": 1, "rank": 32, "stored": "nf4_double", "plain": "float32"}
FACTORY: dict[str, Any] = {"source": "LLaMA-Factory", "rows": 1, "length": 1024, "whole_logits": False}
UNEXPLAINED = "the source's quantised runs take 3 to 4 GiB more beside the weights than its plain ones"

ROWS = [
    Row(**TUNE, model="Llama 3.1 8B", published_gib=16.20, rows=2, length=2048, rank=8, whole_logits=False,
        compiled=True),
    Row(**TUNE, model="Llama 3.2 3B", published_gib=60.00, rows=2, length=4096, checkpointing=False),
    Row(**TUNE, model="Llama 2 7B", published_gib=14.50, rows=2, length=512, rank=8, whole_logits=False),
    Row(**PEFT, published_gib=20.76, rank=32),
    Row(**PEFT, published_gib=21.00, rank=64),
    Row(**{**PEFT, "source": "PEFT DoRA"}, published_gib=22.85, rank=32),
    Row(**{**PEFT, "source": "PEFT AdaLoRA"}, published_gib=21.22, rank=64),
    Row(**{**PEFT, "source": "PEFT IA3"}, published_gib=21.64, trained=28 * (1024 + 1024 + 8192)),
    # Blocks of 32: a skew-symmetric matrix of 32 x 31 / 2 for each of the 96 blocks of an input of 3072.
    Row(**{**PEFT, "source": "PEFT OFT"}, published_gib=20.80, trained=28 * 2 * 96 * 496),
    Row(**LIT, model="Llama 2 7B", published_gib=18.41, rows=2, rank=32),
    Row(**LIT, model="Llama 2 7B", published_gib=12.74, rows=2, rank=32, stored="nf4", off=UNEXPLAINED),
    Row(**LIT, model="Llama 3.1 8B", published_gib=18.37, rows=1, rank=32),
    Row(**LIT, model="Llama 3.1 8B", published_gib=16.21, rows=2, rank=32, stored="nf4", off=UNEXPLAINED),
    Row(**LIT, model="Llama 3.2 3B", published_gib=9.01, rows=1, rank=32),
    Row(**{**LIT, "length": 1304}, model="Llama 2 7B", published_gib=27.07, rows=2, rank=8),
    Row(**{**LIT, "length": 1304}, model="Llama 2 13B", published_gib=35.50, rows=1, rank=8),
    Row(**QWEN, model="Qwen 7B", published_gib=19.00, length=512),
    Row(**QWEN, model="Qwen 7B", published_gib=22.17, length=2048),
    Row(**QWEN, model="Qwen 7B", published_gib=34.09, length=8192),
    Row(**QWEN, model="Qwen 14B", published_gib=34.83, length=2048),
    # AMP: float32 weights, and copies of them in 16 bits beside gradients that accumulate.
    Row(**{**QWEN, "rank": 0}, model="Qwen 1.8B", published_gib=40.51, length=2048, accumulates=True),
    Row(**KBIT, model="Llama 3.1 8B", published_gib=11.18, length=932),
    Row(**KBIT, model="Llama 3.1 8B", published_gib=22.35, length=5789),
    Row(**KBIT, model="Llama 3.1 8B", published_gib=74.51, length=28454),
    Row(**KBIT, model="Llama 3.3 70B", published_gib=74.51, length=6916),
    Row(**FACTORY, model="Llama 2 7B", published_gib=55.88, trained_bytes=2.0),
    Row(**FACTORY, model="Llama 2 7B", published_gib=14.90, rank=16),
    Row(**FACTORY, model="Llama 2 7B", published_gib=9.31, rank=16, stored="int8"),
    Row(**FACTORY, model="Llama 3.3 70B", published_gib=44.70, rank=16, stored="nf4_double"),
    # An upper bound: it fits on one card of 48 GB.
    Row(source="QLoRA", model="Llama 65B", published_gib=44.70, rows=1, length=512, rank=64, stored="nf4_double",
        optim="paged_adamw_32bit"),
]  # fmt: skip


def stated(kind: Any, **settings: Any) -> Any:
    """The settings as `kind`; each must be given, so that no default is at work."""
    assert settings.keys() == {each.name for each in fields(kind)}
    return kind(**settings)


def planned(row: Row) -> float:
    """The total that is estimated under a row's conditions, in GiB."""
    shape = MODELS[row.model]
    adapter = bool(row.rank) or row.trained is not None
    trained = row.trained
    if trained is None:
        trained = lora_parameters(shape, row.rank, row.targets) if row.rank else num_parameters(shape)
    assert trained is not None
    weights = stated(
        Weights, trained=trained, adapter=adapter, each_bytes=weight_bytes(shape, row.plain, row.stored),
        trained_bytes=row.trained_bytes, optim=row.optim, quantised=row.stored != "none", accumulates=row.accumulates,
        start=(0.0, False),
    )  # fmt: skip
    how = stated(
        Pass, rows=row.rows, length=row.length, compute_bytes=row.compute_bytes, checkpointing=row.checkpointing,
        attention="sdpa", masked=row.masked, compiled=row.compiled, whole_logits=row.whole_logits,
        on_cpu=False,
    )  # fmt: skip
    beside = stated(
        Surroundings, num_reference_models=0, other_models_bytes=0.0, sampling=None, vllm_bytes=0.0, vllm_sleeps=False,
        cuda=row.card,
    )  # fmt: skip
    result = estimate(shape, weights, how, sharding=Sharding(), beside=beside)
    assert result is not None
    return result.total_gib


def test_the_plan_is_within_15_percent_of_every_published_peak_but_two():
    ratios = {row.name: planned(row) / row.published_gib for row in ROWS}
    assert len(ratios) == len(ROWS) == 30
    off = {row.name for row in ROWS if row.off}
    outside = {name: round(ratio, 2) for name, ratio in ratios.items() if not 0.85 <= ratio <= 1.15}
    assert outside.keys() == off
    assert len(off) == 2
    middle = sorted(ratios.values())
    assert 0.95 < (middle[14] + middle[15]) / 2 < 1.05
