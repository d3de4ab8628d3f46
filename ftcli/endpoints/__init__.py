"""Servers that answer in JSON: asking one within bounds, and starting llama.cpp's for a file."""
