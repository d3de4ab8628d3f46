"""Runs a driver in the other tool's interpreter, which is given the rows and a tokenizer, and no network.

Nothing of that tool is imported here. Its process sees an environment of its own, without keys and tokens of the user's
and without a home folder. Where the kernel lets a user make an empty network, it gets that one; elsewhere its libraries
are told to stay offline, with addresses at which nobody answers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import home_expanded
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.proofs.peer_tools import PeerTool

_PACKAGE = Path(__file__).resolve().parents[1]
_DRIVERS = _PACKAGE / "worker" / "peers"
_PEERS = _PACKAGE.parent / "build" / "peers"
"""Where benchmarks/peers/environment.py makes environments; only a checkout of the sources has it."""
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SYSTEMROOT")
_NOBODY = "http://127.0.0.1:9"
_OFFLINE = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1"),
    **dict.fromkeys(("HF_HUB_DISABLE_TELEMETRY", "TRL_DISABLE_TELEMETRY", "AXOLOTL_DO_NOT_TRACK", "DO_NOT_TRACK"), "1"),
    **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), _NOBODY),
    "WANDB_MODE": "disabled",
    "AXOLOTL_IS_PREPROCESS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONUTF8": "1",
    "PYTHONWARNINGS": "ignore",
}
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "tokenizer.model", "chat_template.jinja", "config.json", "generation_config.json"),
)
_NEWER_CLASS, _OLDER_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
"""One class under two names: transformers before 5 knows the second alone."""
_LAST_LINES = 8


def interpreter(tool: PeerTool, title: str, given: str | None) -> Path:
    """The interpreter that has the other tool: the one that is named, else the one that the benchmarks made.

    Raises:
        ConfigError: there is none, with the commands that make one.
    """
    if given is not None:
        path = home_expanded(given)
        if not os.access(path, os.X_OK) or path.is_dir():
            what = "is no program that can be run"
            raise ConfigError(Problem(f"--peer-python {shell_word(given)}", what, "name a python that has the tool"))
        return path.absolute()
    if not tool.folder:
        return Path(sys.executable)
    path = _PEERS / tool.folder / "bin" / "python"
    if path.exists():
        return path
    make = f"python -m venv peer && peer/bin/pip install {shell_word(tool.requirement)}"
    fix = f"make an environment for it, {make}, and add --peer-python peer/bin/python"
    raise ConfigError(Problem("--prove", f"{title} is not at hand, and ftcli installs nothing", fix))


def tokenizer_copy(source: Path, target: Path) -> Path:
    """The files of a tokenizer alone, in a new folder: no weights, and no code that a model brings along.

    Raises:
        ConfigError: it has no tokenizer.json.
    """
    target.mkdir()
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if not (target / "tokenizer.json").is_file():
        what = f"{source} has no tokenizer.json, which both tools could read"
        raise ConfigError(Problem("model.name_or_path", what, "save the model with its fast tokenizer"))
    settings = target / "tokenizer_config.json"
    if settings.is_file():
        text = settings.read_text(encoding="utf-8")
        settings.write_text(text.replace(f'"{_NEWER_CLASS}"', f'"{_OLDER_CLASS}"'), encoding="utf-8")
    return target


def _isolated() -> list[str]:
    """The words before a command that give it an empty network; none where that is not to be had."""
    words = ["unshare", "--map-root-user", "--net"]
    try:
        tried = subprocess.run([*words, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return []
    return [] if tried.returncode else words


def answer(python: Path, driver: str, request: Mapping[str, Any], folder: Path, title: str) -> dict[str, Any]:
    """What a driver answers.

    Args:
        folder: an empty one; the process works in it, and writes nowhere else.

    Raises:
        ConfigError: the tool is not in that interpreter, or ends with an error of its own.
    """
    asked, answered = folder / "request.json", folder / "answer.json"
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    asked.write_text(json.dumps({**request, "folder": str(work)}), encoding="utf-8")
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    places = dict.fromkeys(("HOME", "HF_HOME", "MODELSCOPE_CACHE", "XDG_CACHE_HOME", "TMPDIR"), str(home))
    done = subprocess.run(
        [*_isolated(), str(python), str(_DRIVERS), driver, str(asked), str(answered)],
        cwd=work,
        env={**kept, **_OFFLINE, **places},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not answered.is_file():
        last = " / ".join(line.strip() for line in done.stderr.splitlines()[-_LAST_LINES:] if line.strip())
        what = f"{title} ended with {done.returncode}: {last or 'it said nothing'}"
        raise ConfigError(Problem(shell_word(str(python)), what, "see that this python has the tool, and its release"))
    found: dict[str, Any] = foreign_files.read_json(answered)
    return found
