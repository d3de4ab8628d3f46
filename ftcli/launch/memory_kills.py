"""How many processes the kernel has ended for want of memory: in this machine, and in this control group."""

from __future__ import annotations

import re
from pathlib import Path

MACHINE = Path("/proc/vmstat")
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def memory_kills(machine: Path = MACHINE, groups: Path = GROUPS, own: Path = OWN_GROUP) -> int:
    """A number that grows when the kernel kills a process for want of memory; 0 where it does not tell.

    A container may not see the machine's count, and sees the one of its control group.
    """
    counts = [machine, groups / "memory.events", groups / "memory" / "memory.oom_control"]
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        if not controllers:
            counts.append(groups / inside / "memory.events")
        elif "memory" in controllers.split(","):
            counts.append(groups / "memory" / inside / "memory.oom_control")
    found = (re.search(r"^oom_kill (\d+)", _text(file), re.MULTILINE) for file in dict.fromkeys(counts))
    return sum(int(number[1]) for number in found if number)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
