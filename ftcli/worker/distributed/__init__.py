"""Models that several processes share out, and states that resume exactly."""
