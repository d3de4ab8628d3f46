"""Which libraries a worker does not import before something touches them, and why: the one place that says so.

peft imports bitsandbytes, and with it torch's compiler, for models that are not quantised; accelerate imports DeepSpeed
to ask whether a model is one of its engines; transformers reads its own source files line by line. On two cores that is
a third of the time from the start of a worker to its first step.

Nothing is hidden, and nothing is decided from the spec. A deferred library stands in `sys.modules` as itself, not yet
executed: whoever reads an attribute of it, or imports anything below it, executes it first and then has the real
module. The same holds for the few answers given here in a library's place: each is what the library would have said.
"""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.util
import re
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

DEFERRED = {
    "bitsandbytes": "imported by peft.helpers and peft.tuners.*, used by quantised models and 8-bit optimisers",
}
"""Libraries that are executed when touched, each with who imports it and what it is for."""

NEEDLESS = frozenset(
    {
        "bitsandbytes", "deepspeed", "torch._inductor.compile_fx", "torch._inductor.lowering", "triton",
        "torchvision", "PIL", "torchaudio", "librosa", "soundfile", "cv2", "timm",
        "scipy", "sklearn", "matplotlib", "tensorflow", "jax", "onnx", "onnxruntime",
        "fastapi", "uvicorn", "starlette", "openai", "vllm", "diffusers", "gradio", "wandb", "tensorboard",
    }
)  # fmt: skip
"""What no run needs that neither quantises nor shards by DeepSpeed: `loaded` finds none of them at its end."""

_FIRST_WITH_4_BIT = (0, 39)
"""The version in which bitsandbytes got the `Linear4bit` that peft asks for."""


_lock = threading.RLock()
_executing: set[str] = set()


class _Deferred(ModuleType):
    """A module before its execution; a plain module after the first touch.

    It has no `__path__`, so importing something below it touches it too: the parent is executed first, as always.
    """

    def __getattr__(self, name: str) -> Any:
        with _lock:
            own = self.__name__
            if own in _executing:  # by this thread, as the lock is held: an import in a circle, told as Python tells it
                raise AttributeError(f"partially initialized module {own!r} has no attribute {name!r}")
            if type(self) is _Deferred:  # another thread may have been first
                _execute(self)
        return getattr(self, name)


def _execute(module: ModuleType) -> None:
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    _executing.add(spec.name)
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # As a failed import: the next attempt begins anew.
        sys.modules.pop(spec.name, None)
        module.__dict__.pop("__path__", None)
        raise
    finally:
        _executing.discard(spec.name)
    module.__class__ = ModuleType


def _hand_back(module: ModuleType, loader: Loader) -> None:
    assert module.__spec__ is not None
    module.__spec__.loader = module.__loader__ = loader


class _DeferringLoader(Loader):
    """Makes the module and leaves its execution to the first touch."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader makes it."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Hands the module back to its own loader, which `_execute` asks."""
        _hand_back(module, self.loader)
        module.__dict__.pop("__path__", None)
        module.__class__ = _Deferred


class _PresentLoader(Loader):
    """Gives a module that is there already.

    An import of something below a deferred package executes the package in passing, which may well import that same
    thing; Python does not look again and would execute it twice.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module as it is."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Executes nothing; the module keeps the spec that it was executed by."""
        module.__spec__ = self.spec


class _AnsweringLoader(Loader):
    """Executes a module, then gives its questions the answers that need no import."""

    def __init__(self, loader: Loader, answer: Callable[[ModuleType], None]) -> None:
        self.loader, self.answer = loader, answer

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader makes it."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Executes it with its own loader."""
        _hand_back(module, self.loader)
        self.loader.exec_module(module)
        self.answer(module)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The usual spec with one of the loaders above, for the modules named in this file; None for all others."""
        if target is None and fullname in sys.modules and fullname.rpartition(".")[0] in DEFERRED:
            return ModuleSpec(fullname, _PresentLoader(sys.modules[fullname]))
        if fullname not in DEFERRED and fullname not in _ANSWERS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        if fullname in DEFERRED:
            spec.loader = _DeferringLoader(spec.loader)
        else:
            spec.loader = _AnsweringLoader(spec.loader, _ANSWERS[fullname])
        return spec


def _four_bit_by_version(peft_imports: ModuleType) -> None:
    """peft looks for `bitsandbytes.nn.Linear4bit` in every run; that it is there follows from the version."""
    asked = peft_imports.is_bnb_4bit_available

    @functools.cache
    @functools.wraps(asked)
    def is_bnb_4bit_available() -> bool:
        if not peft_imports.is_bnb_available():
            return False
        try:
            numbers = [int(part) for part in re.findall(r"\d+", metadata.version("bitsandbytes"))[:2]]
        except metadata.PackageNotFoundError:
            return bool(asked())
        return tuple(numbers) >= _FIRST_WITH_4_BIT or bool(asked())

    peft_imports.is_bnb_4bit_available = is_bnb_4bit_available  # type: ignore[attr-defined]


def _no_engine_before_deepspeed(accelerate_models: ModuleType) -> None:
    """accelerate imports DeepSpeed to unwrap its engines; where it was never imported, no model is one."""
    asked = accelerate_models.is_deepspeed_available

    @functools.wraps(asked)
    def is_deepspeed_available() -> bool:
        return "deepspeed" in sys.modules and bool(asked())

    accelerate_models.is_deepspeed_available = is_deepspeed_available  # type: ignore[attr-defined]


def _names_from_the_end(transformers_imports: ModuleType) -> None:
    """transformers looks at every line of 1600 files for the last that begins with `__all__`; it is near the end."""
    asked = transformers_imports.fetch__all__

    @functools.wraps(asked)
    def fetch__all__(file_content: str) -> Any:
        return asked(file_content[file_content.rfind("\n__all__") + 1 :])

    transformers_imports.fetch__all__ = fetch__all__  # type: ignore[attr-defined]


_ANSWERS: dict[str, Callable[[ModuleType], None]] = {
    "peft.import_utils": _four_bit_by_version,
    "accelerate.utils.other": _no_engine_before_deepspeed,
    "transformers.utils.import_utils": _names_from_the_end,
}


def defer() -> None:
    """From now on the modules named above are executed when touched. To be called before anything heavy is imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        # transformers and trl each ask for it, and it reads the files of every package that is installed.
        metadata.packages_distributions = functools.cache(metadata.packages_distributions)


def import_heavy(module: str) -> ModuleType:
    """Import a module of ours with all that it brings.

    Meanwhile, nothing is collected: classes and functions stay, and looking through them again and again for what can
    go costs more than a second. What was imported is left out of later collections too.
    """
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def loaded() -> set[str]:
    """Modules of `NEEDLESS` that this process has executed."""
    return {name for name in NEEDLESS if name in sys.modules and type(sys.modules[name]) is not _Deferred}
