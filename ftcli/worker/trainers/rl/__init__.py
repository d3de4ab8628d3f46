"""Trainers that sample their own answers: PPO, groups of answers, and what they share."""
