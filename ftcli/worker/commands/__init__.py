"""One module per worker command, with the command's name: `python -m ftcli.worker eval …` runs eval.py.

A module in this folder that defines `COMMAND` (ftcli/worker/process/command.py) declares it, and nothing else does.
"""
