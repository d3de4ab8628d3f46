"""Where the seconds of a run go (`run.profile`): a clock, the calls that it is hung on, and what is kept of it."""
