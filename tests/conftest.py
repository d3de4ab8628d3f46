"""What all tests share: an environment without network, one thread each, and runs that stay in a temporary folder."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.warm import Warm

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# Models this small gain nothing from a second thread, and `make test` runs a process on each core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Whatever a user of this machine has cached, the tests neither see nor change it.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ftcli-cache-")


def pytest_collection_finish() -> None:
    """Leave what the tests import out of the search for garbage: half a second, at the start of each trainer."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A run in this process sets its threads; the tests after it compute with those that were set before."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else int(os.environ["OMP_NUM_THREADS"])
    yield
    torch = sys.modules.get("torch")
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], here: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process; returns its exit code, stdout and stderr."""
    from ftcli.cli import main

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def problems() -> Callable[..., list[str]]:
    """The problems that overrides (and a request's other parts) cause, as text."""
    from ftcli.build.resolve import spec_of
    from ftcli.config.compose import Request
    from ftcli.core.errors import ConfigError

    def find(*overrides: str, **request: object) -> list[str]:
        try:
            spec_of(Request(overrides=overrides, **request))  # type: ignore[arg-type]
        except ConfigError as error:
            return [str(problem) for problem in error.problems]
        return []

    return find


@pytest.fixture
def ftcli() -> list[str]:
    """The command as this environment runs it."""
    return [sys.executable, "-m", "ftcli"]


MakeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all processes of the session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def once(shared: Path) -> MakeOnce:
    """Makes a folder of that name once for all processes of the session; its tests only read it."""

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.made"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Warm | None]:
    """Runs commands without their imports; None where only real processes will do."""
    from tests.warm import Warm, possible

    server = Warm(tmp_path_factory.mktemp("warm"), shared / "compiled") if possible() else None
    try:
        yield server
    finally:
        if server is not None:
            server.close()


@pytest.fixture(scope="session")
def ranks_of(warm: Warm | None) -> Callable[..., None]:
    """Run so many processes of a module as a launcher would, on the CPU, to their end."""
    from tests.ranks import runner

    return runner(warm)
