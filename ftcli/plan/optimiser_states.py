"""Bytes that each optimiser keeps of what it trains."""

from __future__ import annotations

# bitsandbytes' blockwise states: one byte and one fp32 scale per block of 256 (bitsandbytes/optim/optimizer.py).
EIGHT_BIT = 1 + 4 / 256

# Optimiser → states per parameter, and bytes of each; None keeps them in the parameter's dtype, as torch.optim does.
# Counted from the classes that transformers' Trainer builds with its default arguments. galore and apollo keep their
# states in a low rank; Adam's two full states are an upper bound for them.
OPTIMISERS: dict[str, tuple[int, float | None]] = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused"), (2, None)),
    **dict.fromkeys(("stable_adamw", "schedule_free_adamw", "schedule_free_radam"), (2, None)),
    **dict.fromkeys(("galore_adamw", "galore_adamw_layerwise", "apollo_adamw", "apollo_adamw_layerwise"), (2, None)),
    **dict.fromkeys(("galore_adamw_8bit", "galore_adamw_8bit_layerwise"), (2, EIGHT_BIT)),
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), (2, EIGHT_BIT)),
    **dict.fromkeys(("paged_adamw_32bit", "adamw_anyprecision"), (2, 4.0)),
    **dict.fromkeys(("ademamix", "paged_ademamix_32bit"), (3, 4.0)),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), (3, EIGHT_BIT)),
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_32bit"), (1, 4.0)),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), (1, EIGHT_BIT)),
    **dict.fromkeys(("adagrad", "rmsprop", "schedule_free_sgd"), (1, None)),
    **dict.fromkeys(("sgd", "lomo"), (0, None)),
    "adamw_torch_4bit": (2, 0.5 + 4 / 128),
    "grokadamw": (3, None),
}
# One fp32 number per row and per column in place of one per element (Adafactor, arXiv:1804.04235).
FACTORED = frozenset({"adafactor", "adalomo", "galore_adafactor", "galore_adafactor_layerwise"})


def optimiser_bytes(optim: str, trainable: int, parameter_bytes: float, adapter: bool, hidden_size: int) -> float:
    """Bytes of the optimiser's states; an optimiser that is not listed counts as AdamW in fp32 (8 per parameter).

    AdamW keeps two states in the dtype of the parameters: 8 bytes for fp32 weights, 4 for bf16 ones.
    """
    if optim in FACTORED:
        # A matrix of side n has 2n statistics. An adapter's matrices are so narrow that the bound is one per element.
        return trainable * 4.0 * (1.0 if adapter else 2 / hidden_size)
    states, each = OPTIMISERS.get(optim, (2, 4.0))
    return trainable * states * (parameter_bytes if each is None else each)
