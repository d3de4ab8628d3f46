"""The checks of a run: single values, across groups, data and adapter. Each reports problems and changes nothing."""
