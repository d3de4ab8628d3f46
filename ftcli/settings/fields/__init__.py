"""The one table of the fields of every trainer config: who reads each, which values exist, what it reaches."""
