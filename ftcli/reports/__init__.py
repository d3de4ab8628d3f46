"""What is to be seen of runs while they are at work and afterwards: curves, tables, a page."""
