"""Generated answers, reward scores and held-out metrics of a model."""
