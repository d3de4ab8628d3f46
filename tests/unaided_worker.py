"""The worker as accelerate alone would run it on a CPU: without what lets processes there shard a model.

python -m tests.unaided_worker train RUN
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from ftcli.worker.__main__ import leave, main
    from ftcli.worker.distributed import cpu_sharding

    cpu_sharding.enable = lambda _spec: None
    leave(main(sys.argv[1:]), sys.argv[1:])
