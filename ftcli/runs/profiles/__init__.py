"""What a run keeps of where its seconds went, where `run.profile` asks for it."""
