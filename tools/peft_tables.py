"""Tables of the documentation about what adapters start from, and about models that are stored quantised."""

from __future__ import annotations

from ftcli.core.text import table
from ftcli.models.stored_quantisation import DEQUANTISED, FORMATS
from ftcli.peft_methods.initialisations import GRADIENTS, INITIALISATIONS, Initialisation


def initialisations() -> str:
    """What LoRA can start from, and what each start needs."""
    rows = [(f"`{name}`", each.summary, _needs(name, each), each.paper) for name, each in INITIALISATIONS.items()]
    return table(("`peft.init_lora_weights`", "What it is", "Needs", "Paper"), rows)


def _needs(name: str, each: Initialisation) -> str:
    needs = []
    if each.looks_at:
        needs.append("a backward pass over `peft.init_rows`" if each.looks_at == GRADIENTS else "`peft.init_rows`")
    if each.unquantised:
        needs.append("unquantised weights")
    if name == "loftq":
        needs.append("`quantisation=nf4`, `nf4_double` or `fp4`")
    return ", ".join(needs)


def stored_formats() -> str:
    """Each way in which transformers stores weights quantised, and what a run does with it."""
    rows = []
    for name, each in FORMATS.items():
        if each.loads == DEQUANTISED:
            does, packages = "turned into plain weights: any adapter, full fine-tuning and merging work", ""
        elif reason := each.refuses({"quant_method": name}):
            does, packages = f"refused: {reason}", ""
        else:
            merges = "merged with `--base dequantised`" if name == "bitsandbytes" else "not merged"
            does = f"stays quantised below an adapter; {merges}" + (f"; {each.gpu}" if each.gpu else "")
            packages = ", ".join(f"`{package}`" for package in each.packages)
        rows.append((f"`{name}`", each.what, does, packages))
    return table(("`quant_method`", "What it is", "What a run does with it", "Needs"), rows)
