"""The models that are measured beside each other: the one a run began with, the one it made; or one alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ftcli.models.sources import model_source
from ftcli.runs import rundir
from ftcli.settings.groups import ModelSettings
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.inference import chat
from ftcli.worker.models.answer_ends import ending_as
from ftcli.worker.models.load import UNQUANTISED, as_granted, best_device, load_trained, make_encoder
from ftcli.worker.process.activity import phase
from ftcli.worker.tokenise.encoder import Encoder

BEFORE, AFTER, MEASURED = "before", "after", "measured"
"""Of a run: what it began with, what it made. A model by itself is measured alone."""
Found = TypeVar("Found")


@dataclass(frozen=True)
class Subject:
    """A model to measure, in evaluation mode, with the encoder that it is served with."""

    name: str
    """BEFORE, AFTER or MEASURED."""
    model: Any
    encoder: Encoder


def measured(request: Mapping[str, Any], measure: Callable[[Subject], Found]) -> dict[str, Found]:
    """What a function finds of each model, by the name of the column.

    An adapter is loaded once, and its base measured with it switched off. Both models of a run answer with the
    template and the end tokens that it was trained with, so that the weights alone are compared.

    Args:
        request: {"model": a run, a model folder, an adapter or a hub id, "trust_remote_code": bool}.

    Raises:
        ConfigError: one of them cannot be loaded.
    """
    name = str(request["model"])
    run = rundir.find_run(name)
    # As in training: an adapter trained on a 4-bit base answers on that base.
    quantisation = RunSpec.load(run / rundir.SPEC).quantisation if run else UNQUANTISED
    settings = as_granted(chat.settings_of(name), request)
    source = model_source(name)
    compares = run is not None or (source is not None and source.is_adapter)
    encoder = make_encoder(settings)

    def loaded(which: ModelSettings) -> Any:
        device = best_device()
        with phase("loading the model"):
            model = load_trained(which, seed=0, device=device, quantisation=chat.on_device(quantisation, device))
        model = ending_as(model, encoder)
        return (model if quantisation.type != "none" else model.to(device)).eval()

    trained = loaded(settings)
    if not compares:
        return {MEASURED: measure(Subject(MEASURED, trained, encoder))}
    after = measure(Subject(AFTER, trained, encoder))
    if hasattr(trained, "peft_config"):
        with trained.disable_adapter():
            return {BEFORE: measure(Subject(BEFORE, trained, encoder)), AFTER: after}
    del trained  # it leaves the memory before the next one is loaded
    return {BEFORE: measure(Subject(BEFORE, loaded(as_granted(chat.start_of(name), request)), encoder)), AFTER: after}
