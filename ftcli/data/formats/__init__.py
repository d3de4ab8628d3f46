"""Row → canonical row: recognising the format, reading its fields, describing it."""
