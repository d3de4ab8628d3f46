"""What `ftcli eval` can measure beside the held-out rows of a run: one module for each way."""
