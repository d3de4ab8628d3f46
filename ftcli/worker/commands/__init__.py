"""One module a worker command, called as the command is: `python -m ftcli.worker eval …` runs eval.py.

A module in this folder that defines `COMMAND` (ftcli/worker/process/command.py) declares it; nothing else registers it.
"""
