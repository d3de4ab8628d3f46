"""Models whose weights are stored quantised: how each format is loaded, what it takes in memory, or why it is refused.

A run loads such a model as it is, with an adapter on top, where the installed transformers passes gradients through its
layers. Formats that it can turn back into plain weights while it loads them are turned back: every adapter, merging and
full fine-tuning then work, at the memory of the plain weights. The rest is refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.models import sources
from ftcli.settings.groups import ModelSettings

Declared = Mapping[str, Any]
"""The `quantization_config` of a config.json."""
KEPT, DEQUANTISED = "kept", "dequantised"


@dataclass(frozen=True, kw_only=True)
class StoredFormat:
    """One `quant_method` of config.json."""

    what: str
    """What it is, for a table."""
    loads: str = KEPT
    """"kept": its layers stay quantised; "dequantised": they become plain weights."""
    refuses: Callable[[Declared], str] = lambda declared: ""
    """Why no run can train on such a model; empty where one can."""
    packages: tuple[str, ...] = ()
    """What must be installed, by the names under which Python imports it."""
    gpu: str = ""
    """Why it needs a CUDA GPU; empty where a CPU will do."""
    weight_bytes: Callable[[Declared], float | None] = lambda declared: None
    """Bytes of one weight of a quantised layer, with its share of scales; None where the file does not say."""


def _no_gradient(name: str) -> Callable[[Declared], str]:
    return lambda declared: (
        f"transformers passes no gradient through its {name} layers, so no adapter above would train"
    )


def _grouped(bits: Any, group: Any, scale_bytes: float = 2.0, zeros: bool = True) -> float | None:
    """Bytes of a weight in groups that share a scale and, with `zeros`, a zero point of as many bits as a weight."""
    if not isinstance(bits, int | float) or isinstance(bits, bool):
        return None
    size = group if isinstance(group, int) and group > 0 else 0  # -1: a whole row, whose scale is too little to count
    return bits / 8 + ((scale_bytes + (bits / 8 if zeros else 0)) / size if size else 0)


def _gptq(declared: Declared) -> float | None:
    return _grouped(declared.get("bits"), declared.get("group_size"))


def _bitsandbytes(declared: Declared) -> float:
    if declared.get("load_in_8bit"):
        return 1.0
    return 0.5 + (1 / 64 + 4 / (64 * 256) if declared.get("bnb_4bit_use_double_quant") else 4 / 64)


def _compressed(declared: Declared) -> float | None:
    """The widest of its groups, so that the plan is on the safe side."""
    groups = declared.get("config_groups") or {}
    weights = [group.get("weights") or {} for group in groups.values() if isinstance(group, dict)]
    found = [
        _grouped(each.get("num_bits"), each.get("group_size"), zeros=not each.get("symmetric")) for each in weights
    ]
    return None if not found or None in found else max(each for each in found if each is not None)


def _aqlm(declared: Declared) -> float | None:
    try:
        codes = declared["num_codebooks"] * declared["nbits_per_codebook"]
        return float(codes / 8 / (declared["in_group_size"] * declared["out_group_size"]))
    except (KeyError, TypeError):
        return None


def _torchao_bits(declared: Declared) -> int | None:
    """Bits of a weight, from the name of its type: Int8WeightOnlyConfig, Float8…, Int4…."""
    kind = declared.get("quant_type")
    kind = kind.get("default", kind) if isinstance(kind, Mapping) else kind
    name = str(kind.get("_type", "")) if isinstance(kind, Mapping) else str(kind or "")
    digits = [
        int(part) for part in ("8", "4", "2", "1") if f"int{part}" in name.lower() or f"float{part}" in name.lower()
    ]
    return digits[0] if digits else None


def _torchao(declared: Declared) -> str:
    bits = _torchao_bits(declared)
    return (
        ""
        if bits == 8
        else "transformers trains above torchao's 8-bit weights only" + (f", not {bits}" if bits else "")
    )


def _bitnet(declared: Declared) -> str:
    online = declared.get("linear_class") == "autobitlinear" and declared.get("quantization_mode") == "online"
    return "" if online else "transformers trains BitNet only with linear_class=autobitlinear, quantization_mode=online"


# What transformers 5.23 does with each (transformers/quantizers); tests walk its own list of methods.
FORMATS: Mapping[str, StoredFormat] = {
    "bitsandbytes": StoredFormat(
        what="4 or 8 bits of bitsandbytes", packages=("bitsandbytes",), weight_bytes=_bitsandbytes
    ),
    "gptq": StoredFormat(what="GPTQ", packages=("gptqmodel", "optimum"), weight_bytes=_gptq),
    "awq": StoredFormat(what="AWQ", packages=("gptqmodel",), weight_bytes=_gptq),
    "aqlm": StoredFormat(what="AQLM", packages=("aqlm",), weight_bytes=_aqlm),
    "torchao": StoredFormat(
        what="torchao", packages=("torchao",), refuses=_torchao, weight_bytes=lambda declared: 1.0
    ),
    "eetq": StoredFormat(
        what="EETQ, 8 bits", packages=("kernels",), gpu="its kernels run on CUDA only",
        weight_bytes=lambda declared: 1.0,
    ),
    "sinq": StoredFormat(
        what="SINQ", packages=("sinq",), weight_bytes=lambda d: _grouped(d.get("nbits"), d.get("group_size"))
    ),
    "compressed-tensors": StoredFormat(
        what="compressed-tensors: FP8, INT8, INT4, NVFP4 of vLLM", packages=("compressed_tensors",),
        weight_bytes=_compressed,
    ),
    "bitnet": StoredFormat(what="BitNet", refuses=_bitnet),
    "fp8": StoredFormat(what="FP8 in blocks, as DeepSeek V3 and Qwen3-FP8", loads=DEQUANTISED),
    "mxfp8": StoredFormat(what="MXFP8", loads=DEQUANTISED),
    "mxfp4": StoredFormat(what="MXFP4, as gpt-oss", loads=DEQUANTISED),
    "metal": StoredFormat(what="Metal, as MLX", loads=DEQUANTISED),
    "nvfp4": StoredFormat(
        what="NVFP4 of transformers", refuses=lambda declared: "transformers cannot load stored NVFP4 weights yet"
    ),
    "hqq": StoredFormat(what="HQQ", refuses=lambda declared: "transformers 5 cannot load HQQ weights yet"),
    "quanto": StoredFormat(
        what="Quanto", refuses=lambda declared: "transformers quantises by Quanto, but loads no stored weights of it"
    ),
    "gguf": StoredFormat(what="GGUF", refuses=_no_gradient("GGUF")),
    "vptq": StoredFormat(what="VPTQ", refuses=_no_gradient("VPTQ")),
    "higgs": StoredFormat(what="HIGGS", refuses=_no_gradient("HIGGS")),
    "fbgemm_fp8": StoredFormat(what="FP8 of FBGEMM", refuses=_no_gradient("FBGEMM")),
    "spqr": StoredFormat(what="SpQR", refuses=_no_gradient("SpQR")),
    "quark": StoredFormat(what="Quark", refuses=_no_gradient("Quark")),
    "fp_quant": StoredFormat(what="FP-Quant", refuses=_no_gradient("FP-Quant")),
    "auto-round": StoredFormat(what="AutoRound", refuses=_no_gradient("AutoRound")),
    "fouroversix": StoredFormat(what="Four Over Six", refuses=_no_gradient("Four Over Six")),
    "gemma": StoredFormat(what="quantised Gemma", refuses=_no_gradient("quantised Gemma")),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StoredQuantisation:
    """How the weights of one model are stored."""

    name: str
    """`quant_method`."""
    declared: Declared

    @property
    def format(self) -> StoredFormat | None:
        """What is known of the format; None for a method that the installed transformers does not know either."""
        return FORMATS.get(self.name)

    @property
    def stays(self) -> bool:
        """Whether its layers stay quantised in memory."""
        return self.format is None or self.format.loads == KEPT

    @property
    def as_ours(self) -> str:
        """The name under which an adapter refuses it: one of ours for bitsandbytes, else the method's own."""
        if self.name != "bitsandbytes":
            return self.name
        if self.declared.get("load_in_8bit"):
            return "int8"
        double = "_double" if self.declared.get("bnb_4bit_use_double_quant") else ""
        return f"{self.declared.get('bnb_4bit_quant_type') or 'fp4'}{double}"

    def weight_bytes(self) -> float | None:
        """Bytes of one weight of a quantised layer; None where they are unknown, or where it becomes plain."""
        return self.format.weight_bytes(self.declared) if self.format and self.stays else None


def stored_quantisation(model: ModelSettings) -> StoredQuantisation | None:
    """How the weights of a model are stored, by its config.json; None for plain weights.

    Raises:
        ConfigError: an adapter names no base.
    """
    declared = sources.declared_quantisation(model)
    if declared is None:
        return None
    kind = declared.get("quant_method")
    if kind is None and not any(str(key).startswith("load_in_") for key in declared):
        return None
    return StoredQuantisation(
        name=str(kind or "bitsandbytes").removesuffix("_4bit").removesuffix("_8bit"), declared=declared
    )
