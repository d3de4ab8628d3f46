"""Where a model is, and what it is made of, counted from its configuration without loading it."""
