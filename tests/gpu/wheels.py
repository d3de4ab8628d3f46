"""The packages that a bare machine with torch and transformers lacks: fetched here, unpacked there without pip.

    python tests/gpu/wheels.py FOLDER [--python 3.12] [--cuda 130]    fetch them, at the versions of constraints.txt

A wheel is a zip archive that Python imports from once it is unpacked. bitsandbytes ships a library for each CUDA; only
that of the machine is kept, since all of them are larger than the rest of the repository.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    "trl", "peft", "accelerate", "datasets", "dill", "multiprocess", "hydra-core", "omegaconf", "bitsandbytes",
    "nvidia-ml-py",
)  # fmt: skip
SOURCES = ("antlr4-python3-runtime",)
"""Published as source only; the wheel that is built of it runs on any Python 3."""
PLATFORMS = ("manylinux_2_24_x86_64", "manylinux_2_28_x86_64")
LIMIT_MIB = 64
"""What the repository and the wheels may take together."""
_LIBRARY = re.compile(r"bitsandbytes/libbitsandbytes_(?P<build>\w+)\.so")


def fetch(folder: Path, python: str, cuda: str) -> None:
    """Fetch the wheels for a Linux machine with that Python and CUDA."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    shared = ["--quiet", "--disable-pip-version-check", "--no-deps", "-c", str(REPOSITORY / "constraints.txt")]
    machine = ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp"]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "download", *shared, *machine, *platforms, "-d", str(folder), *PACKAGES], check=True)
    subprocess.run([*pip, "wheel", *shared, "-w", str(folder), *SOURCES], check=True)
    for wheel in folder.glob("bitsandbytes-*.whl"):
        keep_one_library(wheel, cuda)


def keep_one_library(wheel: Path, cuda: str) -> None:
    """Leave out the libraries for other cards than that CUDA's.

    Raises:
        SystemExit: there is none for it.
    """
    slim = wheel.with_suffix(".slim")
    kept = False
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(slim, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            library = _LIBRARY.fullmatch(name)
            if library is None or library["build"] in ("cpu", f"cuda{cuda}"):
                new.writestr(old.getinfo(name), old.read(name))
                kept |= library is not None and library["build"] == f"cuda{cuda}"
    if not kept:
        slim.unlink()
        raise SystemExit(f"{wheel.name} has no library for CUDA {cuda}: name another one with --cuda")
    slim.replace(wheel)


def unpacked(wheels: Path, folder: Path) -> list[str]:
    """Unpack all wheels into a folder for PYTHONPATH, and nothing else; the names of those that were there."""
    names = sorted(wheel.name for wheel in wheels.glob("*.whl")) if wheels.is_dir() else []
    shutil.rmtree(folder, ignore_errors=True)
    for name in names:
        with zipfile.ZipFile(wheels / name) as archive:
            archive.extractall(folder)
    return names


def travels_mib(wheels: Path) -> float:
    """Size of what a bare machine is given: the files that git tracks, and the wheels."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    tracked = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    return sum(path.stat().st_size for path in (*tracked, *wheels.glob("*.whl")) if path.is_file()) / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="the machine's Python")
    parser.add_argument("--cuda", default="130", help="CUDA of the machine's torch: 130 for 13.0")
    options = parser.parse_args()
    fetch(options.folder, options.python, options.cuda)
    size = travels_mib(options.folder)
    print(f"{len(list(options.folder.glob('*.whl')))} wheels; with the repository {size:.1f} of {LIMIT_MIB} MiB")
    if size > LIMIT_MIB:
        raise SystemExit(f"more than {LIMIT_MIB} MiB")
