"""Advice: what is seen in rows, which ways the rules give, and that each of them is a recipe which fits and trains."""
