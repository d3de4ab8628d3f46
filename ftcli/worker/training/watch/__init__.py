"""What is watched while a run trains: that all is finite, and that the loss behaves."""
