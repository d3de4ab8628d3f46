"""`merge`: an adapter folded into its base."""

from ftcli.worker.models.merge import merge
from ftcli.worker.process.command import one_answer

COMMAND = one_answer(merge)
