"""`architecture`: measures model classes from their configurations, for the planner."""

from ftcli.worker.models.architecture import measure
from ftcli.worker.process.command import lines

COMMAND = lines(lambda request: (measure(config) for config in request["configs"]), "measuring an architecture")
