"""What the installed torch was built for, read from its files: importing it takes seconds."""

from __future__ import annotations

import re
from functools import cache

from ftcli.core import hardware
from ftcli.core.module_source import package_folder

_CUDA = re.compile(r"^cuda[^=\n]*=\s*'(\d+)\.(\d+)'", re.MULTILINE)
_HIP = re.compile(r"^hip[^=\n]*=\s*'", re.MULTILINE)


@cache
def built_for() -> str:
    """cuda, hip or cpu; "" where torch is not installed or does not say."""
    text = version_text()
    return "cuda" if _CUDA.search(text) else "hip" if _HIP.search(text) else "cpu" if text else ""


def why_no_gpu() -> tuple[str, str] | None:
    """Why torch cannot use a GPU that NVML sees, and the remedy; None where nothing speaks against it."""
    if built_for() == "cpu":
        what = "there is a GPU, and the installed torch is a build for the CPU"
        return what, "install torch with CUDA: pip install --force-reinstall torch (pytorch.org has the index)"
    wants, driver = _CUDA.search(version_text()), hardware.driver_cuda()
    # Within one major version of CUDA every driver runs what was built for a newer minor one.
    if wants is not None and driver is not None and driver[0] < int(wants[1]):
        runs, needs = f"CUDA {driver[0]}.{driver[1]}", f"CUDA {wants[1]}.{wants[2]}"
        what = f"the driver runs {runs}, and the installed torch was built for {needs}"
        return what, "update the driver, or install a torch that was built for its CUDA"
    return None


@cache
def version_text() -> str:
    """The module in which torch says what it was built for, unread by Python; "" where there is none."""
    folder = package_folder("torch")
    path = folder / "version.py" if folder is not None else None
    return path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
