"""What every room may use: errors, text, name suggestions, paths, the strict YAML reader. Imports nothing of ftcli."""
