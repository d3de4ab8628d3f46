"""A hardware profile → the launch plan, and how workers are started and asked."""
