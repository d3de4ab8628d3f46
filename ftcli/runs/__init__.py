"""A run directory: its files, atomic writes, checkpoints. Knows files and nothing of what they are for."""
