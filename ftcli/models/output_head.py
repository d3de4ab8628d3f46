"""What the output head keeps on a CPU while a step is computed: for the worker, which computes it, and for the plan."""

TILE_BYTES = 32 * 2**20
"""Of a buffer for the logits of some tokens, in float32; two are at work. Smaller ones read the head too often."""
KEPT_BYTES = 512 * 2**20
"""Of the probabilities that a trained head keeps for its backward pass; more are computed again there."""
