"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247) as a PEFT tuner.

PEFT only registers types of its own enumeration, so ours is added to that first.
"""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from ftcli.worker.tuners.bottleneck.config import BottleneckConfig, add_type
from ftcli.worker.tuners.bottleneck.layer import BottleneckLayer
from ftcli.worker.tuners.bottleneck.model import BottleneckModel

__all__ = ["BottleneckConfig", "BottleneckLayer", "BottleneckModel", "register"]


def register() -> None:
    """Register the tuner with PEFT; calling it twice changes nothing.

    Raises:
        ImportError: another tuner already has the name, as a later PEFT might.
    """
    known = PEFT_TYPE_TO_CONFIG_MAPPING.get(add_type())
    if known is None:
        register_peft_method(name="bottleneck", config_cls=BottleneckConfig, model_cls=BottleneckModel)
    elif known is not BottleneckConfig:
        raise ImportError(f"PEFT knows another BOTTLENECK already: {known.__module__}.{known.__qualname__}")


register()
