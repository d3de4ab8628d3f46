"""Hardware profile → launch plan; starting workers and sending them requests."""
