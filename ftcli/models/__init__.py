"""Where a model is, and its modules and parameters, counted from its configuration without loading it."""
