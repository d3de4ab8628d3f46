"""Tree → resolved run, with every derived value noted and every problem collected."""
