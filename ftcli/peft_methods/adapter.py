"""Bottleneck adapters: small networks between the layers (Houlsby et al. 2019; Pfeiffer et al. 2021).

PEFT has none, so the tuner is ours (ftcli/tuners/bottleneck).
"""

from ftcli.peft_methods.parameter_counts import bottleneck
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.limits import Limit

METHODS = (
    PeftMethod(
        name="adapter",
        kind="BOTTLENECK",
        summary="Bottleneck layers after attention and feed-forward: the classic, for many tasks on one base.",
        paper="Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247",
        config="ftcli.worker.tuners.bottleneck.config:BottleneckConfig",
        limits={
            "reduction_factor": Limit(low=0, open_low=True),
            "bottleneck_size": Limit(low=1),
            "dropout": Limit(low=0, high=1),
        },
        count=bottleneck,
        never_merges="a nonlinearity stands between its two projections, and no single matrix does the same",
    ),
)
