"""What may be set: our groups, the libraries' fields read from source, who owns what, limits, the run spec."""
