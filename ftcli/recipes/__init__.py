"""Recipes: found, read strictly, and guarded, since people swap them with strangers."""
