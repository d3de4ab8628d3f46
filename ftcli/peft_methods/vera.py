"""Vector-based random matrix adaptation (Kopiczko et al. 2024, arXiv:2310.11454).

The random matrices are stored with the adapter, so that it is the same on every machine.
"""

from ftcli.peft_methods.parameter_counts import vera
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.limits import Limit

METHODS = (
    PeftMethod(
        name="vera",
        kind="VERA",
        summary="Two vectors a layer around shared random matrices: the smallest adapters, many to a base.",
        paper="Kopiczko et al. 2024, arXiv:2310.11454",
        config="peft.tuners.vera.config:VeraConfig",
        defaults={"r": 256, "target_modules": "all-linear", "save_projection": True},
        limits={"r": Limit(low=1), "vera_dropout": Limit(low=0, high=1), "d_initial": Limit(low=0, open_low=True)},
        count=vera,
        rate_factor=20,
    ),
)
