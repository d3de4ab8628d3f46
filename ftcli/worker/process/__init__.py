"""The worker's process: which libraries it imports and when, its parent, signals, progress, and its environment."""
