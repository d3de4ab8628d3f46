"""Ask a worker once about an architecture that is in no table: its modules, parameters, and how it takes packed rows.

Only a plan and a start ask; a check never waits, and help and lists never get here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ftcli.core.text import count
from ftcli.methods.method import further_models
from ftcli.models import known_shapes, measured_layouts
from ftcli.models.layout import Layout
from ftcli.settings.groups import ModelSettings, as_saved
from ftcli.settings.run_spec import RunSpec

Say = Callable[[str], None]


def measure(specs: Iterable[RunSpec], say: Say) -> bool:
    """Measure the architectures of these runs' models that nobody has measured yet.

    Args:
        say: is told that a worker is asked, how long it took and what it found.

    Returns:
        Whether anything was measured, so that a plan made before is out of date.
    """
    wanted = {}
    for model in (model for spec in specs for model in _models(spec)):
        config = known_shapes.unmeasured(model)
        if config is not None:
            wanted[measured_layouts.entry(config)] = (model.name_or_path, config)
    if not wanted:
        return False
    from ftcli.launch.worker_request import WorkerFailed, answers  # most plans ask nobody

    for name, config in wanted.values():
        say(f"{name}: asking a worker about model_type={config.get('model_type')}, which is in no table (once, ~10 s)")
    begun, configs = time.monotonic(), [config for _, config in wanted.values()]
    try:
        for (name, config), answer in zip(wanted.values(), answers("architecture", {"configs": configs}), strict=False):
            measured_layouts.keep(config, answer)
            say(f"{name}: {_found(config)} ({time.monotonic() - begun:.0f} s)")
    except WorkerFailed:
        say("the worker failed; the parameters stay unknown, and packing is off unless you set it")
        return False
    return True


def _models(spec: RunSpec) -> Iterable[ModelSettings]:
    yield spec.model
    for _, name, _ in further_models(spec.method):
        yield as_saved(spec.model, str(name))


def _found(config: object) -> str:
    layout = measured_layouts.kept(config) if isinstance(config, dict) else None
    if not isinstance(layout, Layout):
        return f"its parameters stay unknown: {layout}"
    total = sum(module.num_own_parameters for module in layout.modules)
    return f"{count(total)} parameters; {layout.packing}"
