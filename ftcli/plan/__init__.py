"""Estimates of a resolved run before it starts: steps, tokens, parameters, memory. Reads, and changes nothing."""
