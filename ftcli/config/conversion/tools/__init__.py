"""What no table says of a tool, one module each: its data sets, its batch, its defaults."""
