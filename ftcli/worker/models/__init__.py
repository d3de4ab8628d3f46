"""Models loaded, merged, exported, and their adapters switched."""
