"""A resolved run in, numbers out: steps, tokens, parameters, memory. Nothing is touched."""
