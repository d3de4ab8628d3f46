"""`data`: `ftcli data check` and `prepare` in a worker: tokenises a run's data without loading model weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ftcli.core.errors import FtcliError
from ftcli.methods import Method, get_method
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.models.load import as_granted, make_encoder, position_limit
from ftcli.worker.process.command import one_answer
from ftcli.worker.tokenise import store
from ftcli.worker.tokenise.dataset import Prepared, prepare
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.length_limits import Fitting, fitting
from ftcli.worker.training.library_configs import load_class


def inspect(request: dict[str, Any]) -> dict[str, Any]:
    """The row ledger that a run would have, with the tokens left in the store for it.

    Args:
        request: {"spec": a run spec as JSON text, "trust_remote_code": bool, "json": bool}.

    Returns:
        The run's ledger with "store", the folder with the tokens; or {"problems", "exit_code"} where there are problems
        and JSON was requested.

    Raises:
        DataError: too many rows are unusable, or no row is left.
        ConfigError: the model has no tokenizer or configuration here.
    """
    try:
        spec, method, encoder, fit = opened(request)
        found: Prepared = prepare(spec.data, method, encoder, fit, seed=spec.seed)
    except FtcliError as error:
        if not request.get("json"):
            raise
        return {"problems": [asdict(problem) for problem in error.problems], "exit_code": error.exit_code}
    return {**found.ledger(), "store": str(store.folder())}


def opened(request: dict[str, Any]) -> tuple[RunSpec, Method, Encoder, Fitting]:
    """A run's spec and method, with the encoder and the length limits of its rows.

    Raises:
        ConfigError: the model has no tokenizer or configuration here.
    """
    spec = RunSpec.from_json(request["spec"])
    method = get_method(str(spec.method["name"]))
    model = as_granted(spec.model, request)
    settings = {**method.defaults, **spec.method}
    strategy = settings.get("packing_strategy") or getattr(load_class(method.config), "packing_strategy", "")
    config = _Packing(bool(settings.get("packing")), str(strategy))
    return spec, method, make_encoder(model), fitting(spec.data, method, config, position_limit(model))


class _Packing:
    """The part of a trainer's config that rows depend on; the whole config would initialise accelerate."""

    def __init__(self, packing: bool, packing_strategy: str) -> None:
        self.packing, self.packing_strategy = packing, packing_strategy


COMMAND = one_answer(inspect, "preparing rows")
