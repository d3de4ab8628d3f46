"""Who keeps the curve of a run beside metrics.jsonl: a writer for each tracker, fed in a thread of its own."""
