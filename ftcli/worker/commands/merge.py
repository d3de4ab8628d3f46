"""`merge`: merges an adapter into its base model."""

from ftcli.worker.models.merge import merge
from ftcli.worker.process.command import one_answer

COMMAND = one_answer(merge, "merging the adapter")
