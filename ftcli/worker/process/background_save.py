"""A checkpoint that is written while training goes on: its bytes are taken into memory first.

What torch.save and safetensors would write to files is made in the host's memory at the step of the checkpoint, so that
no later step can reach it. A thread then writes the files, and seals and renames the checkpoint like any other: a death
meanwhile leaves staging. The next save, the end of training and every stop wait for it, and its error is theirs.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import safetensors.torch
import torch

from ftcli.worker.process import interruption

LEAST_BYTES = 2 << 30
"""Size of a checkpoint from which, on a GPU, one is written in the background by itself: some seconds of a disk."""
LEAST_FREE = 2.0
"""How often it must fit into the host's free memory for that."""


class BackgroundSave:
    """The checkpoints of one run, of one process."""

    def __init__(self, wanted: bool | None = False) -> None:
        """
        Args:
            wanted: whether they are written in the background; None is where it is worth it.
        """
        self._wanted = wanted
        self._taken: list[tuple[Path, BytesIO | bytes]] | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._then: Callable[[], None] = _nothing

    def worth_it(self, size: int, device: str) -> bool:
        """Whether a checkpoint of so many bytes is written in the background."""
        if self._wanted is not None:
            return self._wanted
        return device == "cuda" and size >= LEAST_BYTES and psutil.virtual_memory().available >= LEAST_FREE * size

    @contextmanager
    def taking(self, *, wanted: bool) -> Iterator[None]:
        """Take into memory what the block saves, if `wanted`."""
        if not wanted:
            yield
            return
        self._taken = taken = []
        save, save_file = torch.save, safetensors.torch.save_file

        def keep(obj: Any, file: Any, *args: Any, **how: Any) -> None:
            if not isinstance(file, str | os.PathLike):
                save(obj, file, *args, **how)
                return
            content = BytesIO()
            save(obj, content, *args, **how)
            taken.append((Path(file), content))

        def keep_tensors(tensors: dict[str, Any], file: Any, metadata: dict[str, str] | None = None) -> None:
            taken.append((Path(file), safetensors.torch.save(tensors, metadata)))

        holders = [(each, name) for each in _modules() for name, held in vars(each).items() if held is save_file]
        torch.save = keep
        for holder, name in holders:
            setattr(holder, name, keep_tensors)
        try:
            yield
        except BaseException:
            self._taken = None
            raise
        finally:
            torch.save = save
            for holder, name in holders:
                setattr(holder, name, save_file)

    def write(self, seal: Callable[[], None], then: Callable[[], None], clear: Callable[[], None]) -> None:
        """Write what was taken and seal it, in the background; at once where nothing was.

        Args:
            then: called when that is done, by whoever waits for it.
            clear: called where it fails in the background.
        """
        taken, self._taken = self._taken, None
        if taken is None:
            seal()
            then()
            return

        def work() -> None:
            try:
                for path, content in taken:
                    path.write_bytes(content if isinstance(content, bytes) else content.getbuffer())
                taken.clear()
                seal()
            except BaseException as error:
                clear()
                self._error = error

        self._then = then
        self._thread = threading.Thread(target=work, name="checkpoint")
        self._thread.start()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            OSError: what kept it from being written, as where the disk is full.
        """
        if self._thread is None:
            return
        with interruption.finishing():
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        then, self._then = self._then, _nothing
        if error is not None:
            raise error
        then()


def _nothing() -> None:
    pass


def _modules() -> list[Any]:
    """The modules that may have taken a function of safetensors under a name of their own."""
    names = ("safetensors", "transformers", "peft", "trl", "accelerate", "ftcli")
    return [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in names and module]
