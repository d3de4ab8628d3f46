"""What models are measured on beside the held-out rows of a run, and what was measured: files alone, no model."""
