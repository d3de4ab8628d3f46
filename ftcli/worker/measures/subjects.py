"""The models that are measured beside each other: the one a run began with, the one it made; or one alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ftcli.models.sources import model_source
from ftcli.runs import rundir
from ftcli.settings.groups import ModelSettings, QuantisationSettings
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
    run, source = rundir.find_run(name), model_source(name)
    subject = alone(name, request)
    if run is None and not (source is not None and source.is_adapter):
        return {MEASURED: measure(subject)}
    trained, encoder = subject.model, subject.encoder
    after = measure(Subject(AFTER, trained, encoder))
    if hasattr(trained, "peft_config"):
        with trained.disable_adapter():
            return {BEFORE: measure(Subject(BEFORE, trained, encoder)), AFTER: after}
    del subject, trained  # it leaves the memory before the next one is loaded
    start = _loaded(as_granted(chat.start_of(name), request), _quantisation(name), encoder)
    return {BEFORE: measure(Subject(BEFORE, start, encoder)), AFTER: after}


def alone(name: str, request: Mapping[str, Any]) -> Subject:
    """A model, or what a run made, as it is served.

    Args:
        request: {"trust_remote_code": bool}.

    Raises:
        ConfigError: it cannot be loaded.
    """
    settings = as_granted(chat.settings_of(name), request)
    encoder = make_encoder(settings)
    return Subject(MEASURED, _loaded(settings, _quantisation(name), encoder), encoder)


def _quantisation(name: str) -> QuantisationSettings:
    """As in training: an adapter trained on a 4-bit base answers on that base."""
    run = rundir.find_run(name)
    return RunSpec.load(run / rundir.SPEC).quantisation if run else UNQUANTISED


def _loaded(which: ModelSettings, quantisation: QuantisationSettings, encoder: Encoder) -> Any:
    device = best_device()
    with phase("loading the model"):
        model = load_trained(which, seed=0, device=device, quantisation=chat.on_device(quantisation, device))
    model = ending_as(model, encoder)
    return (model if quantisation.type != "none" else model.to(device)).eval()
