"""What others serve: how models are combined and compared, and what each server asks of their files."""
