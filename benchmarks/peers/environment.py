"""A virtual environment for a peer, which wants other versions of transformers and datasets than we do.

Dependencies come from NAME.txt, the peer itself without them: its own pins draw in CUDA libraries and services that its
data preparation never touches. What pip would install is asked first, and anything of CUDA ends it: gigabytes, and a
torch that is not ours.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path


class NotInstallable(Exception):
    """A peer that cannot be had here; the message says why."""


def python_of(name: str, alone: tuple[str, ...], folder: Path, torch: str) -> Path:
    """The interpreter that has the peer; ours when it is installed beside us. The first call builds it.

    Raises:
        NotInstallable: pip fails, or would install CUDA packages.
    """
    if not alone:
        return Path(sys.executable)
    requirements = Path(__file__).parent / f"{name}.txt"
    home, wanted = folder / name, f"torch=={torch}\n{' '.join(alone)}\n{requirements.read_text(encoding='utf-8')}"
    python, built = home / "bin" / "python", home / "built.txt"
    if built.exists() and built.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {' '.join(alone)} in {home}", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    _check(_pip(python, "--dry-run", "--report", "-", f"torch=={torch}", "-r", str(requirements)), torch)
    _pip(python, f"torch=={torch}", "-r", str(requirements))
    _pip(python, "--no-deps", *alone)
    built.write_text(wanted, encoding="utf-8")
    return python


def _pip(python: Path, *arguments: str) -> str:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line.upper()] or done.stderr.splitlines()
        raise NotInstallable(" ".join(errors[-3:]))
    return done.stdout


def _check(report: str, torch: str) -> None:
    """Refuse an installation that brings CUDA."""
    planned = {
        entry["metadata"]["name"].lower(): entry["metadata"]["version"] for entry in json.loads(report)["install"]
    }
    cuda = [name for name in planned if name.startswith(("nvidia-cu", "nvidia-nc", "cuda-", "triton"))]
    if cuda or not planned["torch"].startswith(torch):
        raise NotInstallable(f"pip would install torch {planned['torch']} with {', '.join(cuda) or 'no CUDA'}")
