"""What meets text and files of strangers: reads them within bounds, and shows them without effect on the terminal."""
