"""What a worker's process is before it works: which libraries it imports, and when."""
