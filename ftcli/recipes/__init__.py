"""Recipes that carry their proof: a run's short recipe, its lock, comparing with it, differences, and fetching."""
