"""Trainers that sample their own answers (PPO, GRPO, RLOO), and what they share."""
