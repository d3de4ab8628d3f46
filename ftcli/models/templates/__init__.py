"""Chat templates: where a model's comes from, how it renders, and what its answers are made of."""
