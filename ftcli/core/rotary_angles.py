"""Whether the installed transformers computes rotary angles exactly where TF32 is allowed, read from its files."""

from __future__ import annotations

from functools import cache

from ftcli.core.module_source import package_folder

_PRODUCT = "@ position_ids"
"""How it wrote the angles before 5.20: as a matrix product, which takes the tensor cores where TF32 is allowed."""


@cache
def exact_under_tf32() -> bool:
    """Whether late positions keep their own angles: TF32 has 10 bits, so that 2,049 becomes 2,048."""
    folder = package_folder("transformers")
    path = folder / "models" / "llama" / "modeling_llama.py" if folder is not None else None
    return path is None or not path.is_file() or _PRODUCT not in path.read_text(encoding="utf-8")
