"""What sampled answers are worth: a mixture of reward models, rules and an AI judge."""
