"""Loading, merging and exporting models, and switching adapters."""
