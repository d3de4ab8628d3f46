"""Models sharded over several processes, and state that resumes exactly."""
