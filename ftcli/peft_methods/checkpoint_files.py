"""What the checkpoints of a run must hold, from its spec, for both halves."""

from __future__ import annotations

from ftcli.methods import get_method
from ftcli.runs.checkpoint_kind import kind_of, needed_files
from ftcli.settings.run_spec import RunSpec


def files_to_resume(spec: RunSpec) -> tuple[str, ...]:
    """The files that each checkpoint of a run must have, as patterns."""
    from ftcli.peft_methods import peft_method  # here, since that module lists the methods by importing this folder

    method, declared = get_method(str(spec.method["name"])), peft_method(spec.peft)
    adapter = declared is not None and declared.adapter
    return needed_files(kind_of(spec, adapter=adapter, critic="value" in method.roles))
