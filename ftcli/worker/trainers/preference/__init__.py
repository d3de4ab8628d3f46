"""Trainers of preferences: DPO and its kin, losses without a reference, KTO."""
