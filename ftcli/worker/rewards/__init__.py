"""Rewards of sampled answers: rules, a reward model, an AI judge and user functions in one weighted sum."""
