"""Preference trainers: DPO, KTO, and losses without a reference model."""
