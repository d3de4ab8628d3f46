"""Foreign recipes, one file a tool that wrote them.

A module in this folder that defines `IMPORTER` will declare how a configuration of that tool is recognised, which of
our settings each of its own becomes, and which it has that we have not; listing the folder (ftcli/core/declarations.py)
registers it, and nothing else does. It reads and answers with plain data: nothing of a foreign file is ever run.
"""
