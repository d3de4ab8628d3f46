"""Small packages that a test plants in a temporary folder: named `ftcli` like ours, sound or with one fault."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tools.source_tree import House, read_house

SOUND: Mapping[str, str] = {
    "__init__.py": '__version__ = "0"\n',
    "__main__.py": "import sys\n\nfrom ftcli.cli import main\n\nsys.exit(main())\n",
    "py.typed": "",
    "core/__init__.py": "",
    "core/errors.py": "from ftcli import __version__\n",
    "methods/__init__.py": "",
    "methods/reward.py": "METHOD = 1\n",
    "config/__init__.py": "",
    "config/compose.py": "def composed():\n    import hydra\n    from ftcli.core import errors\n",
    "worker/__init__.py": "",
    "worker/__main__.py": "import sys\n\nfrom ftcli.worker.commands import train\n\nsys.exit(0)\n",
    "worker/models/__init__.py": "",
    "worker/models/reward.py": "import torch\n\nfrom ftcli.methods import reward\n",
    "worker/commands/__init__.py": "",
    "worker/commands/train.py": "from ..models import reward\n",
    "data/__init__.py": "",
    "data/files/__init__.py": "",
    "data/files/reader.py": "from ftcli.core.errors import __version__\n",
    "data/mixture.py": "from ftcli.data.files import reader\n",
    "cli/__init__.py": "from ftcli.cli.check import run as main\n",
    "cli/check.py": "from ftcli.config.compose import composed\n\n\ndef run():\n    return composed()\n",
}
"""A package that keeps every rule, with what each rule might take for a fault."""


def plant(folder: Path, files: Mapping[str, str]) -> House:
    """The sound package with these files added or replaced, below `folder`."""
    for name, text in {**SOUND, **files}.items():
        path = folder / "ftcli" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read_house(folder / "ftcli")
