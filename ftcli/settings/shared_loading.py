"""When one process of a machine reads a model that FSDP shards, and sends the others their shares.

Otherwise each process holds the whole model in host memory until it is sharded: 32 GB a process where all of 8 billion
parameters train, which are held in float32.
"""

from __future__ import annotations

from ftcli.settings.run_spec import RunSpec
from ftcli.settings.sharding import mapping_of

ENTRY = "cpu_ram_efficient_loading"


def wanted(spec: RunSpec) -> bool | None:
    """What the user wrote of it: `cpu_ram_efficient_loading` in train.fsdp_config; None if nothing."""
    content = mapping_of(spec.train.get("fsdp_config"))
    found = content.get(ENTRY, content.get(f"fsdp_{ENTRY}"))
    return None if found is None else str(found).lower() == "true"


def why_each_reads(spec: RunSpec, *, is_adapter: bool, stored_quantised: bool, plain_start: bool) -> str | None:
    """Why each process of a run has to read the whole model itself; None where one can read it for all.

    A process without weights can compute nothing from them before the model is sharded.

    Args:
        is_adapter: whether the model is an adapter, which is merged into its base.
        stored_quantised: whether its weights are stored quantised.
        plain_start: whether what trains starts without the values of the base's weights.
    """
    rules = {
        "only FSDP sends weights from one process to the others": not spec.train.get("fsdp"),
        "there is one process": spec.launch.num_processes == 1,
        "version 1 of FSDP is not supported here": mapping_of(spec.train.get("fsdp_config")).get("version", 2) != 2,
        "a compiled model has its weights before it is sharded": bool(spec.train.get("torch_compile")),
        "quantised weights are sent by no library": spec.quantisation.type != "none" or stored_quantised,
        "random weights are made, not read": spec.model.init == "random",
        "the model is an adapter, which each process merges into its base": is_adapter,
        "the rows of model.new_tokens are means of the others": bool(spec.model.new_tokens),
        "the adapter starts from the weights of the model": not plain_start,
        "run.score_rows scores the model before it is sharded": bool(spec.run.score_rows),
        "run.retention measures the model before it is sharded": bool(spec.run.retention),
        "the reference's log-probabilities are computed before the model is sharded": bool(
            spec.method.get("precompute_ref_log_probs") or spec.train.get("precompute_ref_log_probs")
        ),
    }
    return next((reason for reason, holds in rules.items() if holds), None)
