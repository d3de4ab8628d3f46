"""What a server makes of a run, compared with the trainer's own tokens, answers and weights."""
