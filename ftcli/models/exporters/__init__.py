"""What a trained model can be written as for somebody else's program, one file a format.

A module in this folder that defines `EXPORTER` will declare the format: its name, who reads it, the package that writes
it and how to get that, and the class of the worker that does, as `module:Class`, so that listing the formats imports
nothing heavy. Listing the folder (ftcli/core/declarations.py) registers it, and nothing else does.
"""
