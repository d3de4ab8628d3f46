"""One training run from spec.json to the saved model."""
