"""Rules about a value, across groups, about the data and about the adapter; each finds problems and changes nothing."""
