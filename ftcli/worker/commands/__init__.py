"""One module a worker command."""
