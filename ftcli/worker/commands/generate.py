"""`generate`: an answer to each prompt."""

from ftcli.worker.inference.chat import generate
from ftcli.worker.process.command import lines

COMMAND = lines(generate, "generating answers")
