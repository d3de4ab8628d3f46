"""Deferred imports: which libraries a worker only executes when they are first used, and why.

peft imports bitsandbytes, and with it torch's compiler, even for models that are not quantised; accelerate imports
DeepSpeed to check whether a model is one of its engines; transformers reads its own source files line by line. On two
cores that is a third of the time from the start of a worker to its first step.

Nothing is hidden, and nothing is decided from the spec. A deferred library is in `sys.modules` as itself, but not yet
executed: reading one of its attributes, or importing a submodule, executes it first and then uses the real module. The
few functions replaced here return what the library itself would have returned.
"""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.util
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

DEFERRED = {
    "bitsandbytes": "imported by peft.helpers and peft.tuners.*, used by quantised models and 8-bit optimisers",
    **dict.fromkeys(
        ("wandb", "trackio", "mlflow"), "imported by trl.trainer.* where it is installed, used by run.trackers"
    ),
}
"""Libraries that are executed on first use, each with who imports it and what it is for."""

NEEDLESS = frozenset(
    {
        "bitsandbytes", "deepspeed", "torch._inductor.compile_fx", "torch._inductor.lowering", "triton",
        "torchvision", "torchaudio", "librosa", "soundfile", "cv2", "timm",
        "sklearn", "scipy", "matplotlib", "tensorflow", "jax", "onnx", "onnxruntime",
        "fastapi", "uvicorn", "starlette", "openai", "vllm", "diffusers", "gradio", "wandb", "tensorboard",
        "trackio", "mlflow",
    }
)  # fmt: skip
"""What a run without quantisation and DeepSpeed never needs: at its end, `loaded` finds none of them. PIL it
does not need either, but transformers takes names out of it while it is imported, where it is there."""

_FIRST_WITH_4_BIT = (0, 39)
"""The version in which bitsandbytes got the `Linear4bit` that peft looks for."""


seconds = 0.0
"""What `import_heavy` took in this process."""

_lock = threading.RLock()
_executing: set[str] = set()


class _Deferred(ModuleType):
    """A module before its execution; a plain module after its first use.

    It has no `__path__`, so importing a submodule counts as a use too: the parent is executed first, as always.
    """

    def __getattr__(self, name: str) -> Any:
        with _lock:
            own = self.__name__
            if own in _executing:  # by this thread, as it holds the lock: a circular import, with Python's own message
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
        # Like a failed import: the next attempt starts from scratch.
        sys.modules.pop(spec.name, None)
        module.__dict__.pop("__path__", None)
        raise
    finally:
        _executing.discard(spec.name)
    module.__class__ = ModuleType


def _hand_back(module: ModuleType, loader: Loader) -> None:
    assert module.__spec__ is not None
    module.__spec__.loader = module.__loader__ = loader


class _LoaderAround(Loader):
    """Creates a module by its own loader, and executes it otherwise."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader makes it."""
        return self.loader.create_module(spec)


class _DeferringLoader(_LoaderAround):
    """Creates the module and leaves its execution to the first use."""

    def exec_module(self, module: ModuleType) -> None:
        """Hands the module back to its own loader, which `_execute` calls."""
        _hand_back(module, self.loader)
        module.__dict__.pop("__path__", None)
        module.__class__ = _Deferred


class _PresentLoader(Loader):
    """Returns a module that is already loaded.

    Importing a submodule of a deferred package executes the package first, which may import that same submodule; Python
    does not check `sys.modules` again and would execute it twice.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module as it is."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Executes nothing; the module keeps the spec that it was executed by."""
        module.__spec__ = self.spec


class _AnsweringLoader(_LoaderAround):
    """Executes a module, then replaces functions of it by ones that need no further import."""

    def __init__(self, loader: Loader, answer: Callable[[ModuleType], None]) -> None:
        super().__init__(loader)
        self.answer = answer

    def exec_module(self, module: ModuleType) -> None:
        """Executes it with its own loader."""
        _hand_back(module, self.loader)
        self.loader.exec_module(module)
        self.answer(module)


class _SparingLoader(_LoaderAround):
    """Executes a module that takes functions out of another library, which is imported when one of them is called."""

    def __init__(self, loader: Loader, library: str, names: Sequence[str]) -> None:
        super().__init__(loader)
        self.library, self.names = library, names

    def exec_module(self, module: ModuleType) -> None:
        """Executes it with its own loader, while a module of those functions stands for the library."""
        _hand_back(module, self.loader)
        if self.library in sys.modules or importlib.util.find_spec(self.library.partition(".")[0]) is None:
            self.loader.exec_module(module)
            return
        stand_in = ModuleType(self.library)
        for name in self.names:
            setattr(stand_in, name, functools.partial(_called, self.library, name))
        sys.modules[self.library] = stand_in
        try:
            self.loader.exec_module(module)
        finally:
            del sys.modules[self.library]


def _called(library: str, name: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(importlib.import_module(library), name)(*args, **kwargs)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The usual spec with one of the loaders above, for the modules named in this file; None for all others."""
        if target is None and fullname in sys.modules and fullname.rpartition(".")[0] in DEFERRED:
            return ModuleSpec(fullname, _PresentLoader(sys.modules[fullname]))
        if not any(fullname in named for named in (DEFERRED, _ANSWERS, SPARED)):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        if fullname in DEFERRED:
            spec.loader = _DeferringLoader(spec.loader)
        elif fullname in SPARED:
            spec.loader = _SparingLoader(spec.loader, *SPARED[fullname])
        else:
            spec.loader = _AnsweringLoader(spec.loader, _ANSWERS[fullname])
        return spec


def _four_bit_by_version(peft_imports: ModuleType) -> None:
    """peft looks for `bitsandbytes.nn.Linear4bit` in every run; whether it exists follows from the version."""
    original = peft_imports.is_bnb_4bit_available

    @functools.cache
    @functools.wraps(original)
    def is_bnb_4bit_available() -> bool:
        if not peft_imports.is_bnb_available():
            return False
        try:
            numbers = [int(part) for part in re.findall(r"\d+", metadata.version("bitsandbytes"))[:2]]
        except metadata.PackageNotFoundError:
            return bool(original())
        return tuple(numbers) >= _FIRST_WITH_4_BIT or bool(original())

    peft_imports.is_bnb_4bit_available = is_bnb_4bit_available  # type: ignore[attr-defined]


def _no_engine_before_deepspeed(accelerate_models: ModuleType) -> None:
    """accelerate imports DeepSpeed to unwrap its engines; if it was never imported, no model is one."""
    original = accelerate_models.is_deepspeed_available

    @functools.wraps(original)
    def is_deepspeed_available() -> bool:
        return "deepspeed" in sys.modules and bool(original())

    accelerate_models.is_deepspeed_available = is_deepspeed_available  # type: ignore[attr-defined]


def _names_from_the_end(transformers_imports: ModuleType) -> None:
    """transformers scans every line of 1600 files for the last `__all__`, which is near the end of each."""
    original = transformers_imports.fetch__all__

    @functools.wraps(original)
    def fetch__all__(file_content: str) -> Any:
        return original(file_content[file_content.rfind("\n__all__") + 1 :])

    transformers_imports.fetch__all__ = fetch__all__  # type: ignore[attr-defined]


def _wandb_by_its_files(integrations: ModuleType) -> None:
    """transformers imports wandb to see whether it is more than a folder that was left behind."""
    original = integrations.is_wandb_available

    @functools.wraps(original)
    def is_wandb_available() -> bool:
        spec = importlib.util.find_spec("wandb")
        return spec is not None and spec.origin is not None

    integrations.is_wandb_available = is_wandb_available  # type: ignore[attr-defined]


_ANSWERS: dict[str, Callable[[ModuleType], None]] = {
    "peft.import_utils": _four_bit_by_version,
    "accelerate.utils.other": _no_engine_before_deepspeed,
    "transformers.utils.import_utils": _names_from_the_end,
    "transformers.integrations.integration_utils": _wandb_by_its_files,
}

SPARED: dict[str, tuple[str, tuple[str, ...]]] = {
    f"transformers.loss.{name}": ("scipy.optimize", ("linear_sum_assignment",))
    for name in (
        "loss_deformable_detr", "loss_for_object_detection", "loss_grounding_dino", "loss_lw_detr", "loss_rf_detr",
        "loss_rt_detr",
    )
}  # fmt: skip
"""Modules that are executed with all of transformers' losses: the library and its functions that each takes."""


class Distributions(Mapping[str, list[str]]):
    """Import name → distributions that have it. Of most names their own distribution tells; all of them are only read
    where it does not, since that reads the files of every installed package."""

    def __init__(self, whole: Callable[[], Mapping[str, list[str]]]) -> None:
        self._whole = functools.cache(whole)

    def __getitem__(self, name: str) -> list[str]:
        try:
            own = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            return self._whole()[name]
        return [own.name] if name in (own.read_text("top_level.txt") or "").split() else self._whole()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())


def defer() -> None:
    """Defer the modules named above from now on. Call it before anything heavy is imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        by_name = Distributions(metadata.packages_distributions)
        metadata.packages_distributions = lambda: by_name  # as transformers and trl ask for one name at a time


def import_heavy(module: str) -> ModuleType:
    """Import one of our modules with all its imports, without garbage collection.

    Classes and functions stay alive, and scanning them repeatedly for garbage costs more than a second. Later
    collections skip what was imported, too.
    """
    global seconds
    gc.disable()
    began = time.perf_counter()
    try:
        return importlib.import_module(module)
    finally:
        seconds += time.perf_counter() - began
        gc.freeze()
        gc.enable()


def loaded() -> set[str]:
    """Modules of `NEEDLESS` that this process has executed."""
    return {name for name in NEEDLESS if name in sys.modules and type(sys.modules[name]) is not _Deferred}
