"""Rewards that a rule gives."""
