"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247) as a PEFT tuner.

PEFT registers the types of its own enumeration only, so ours joins that first.
"""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method

from ftcli.tuners.bottleneck.config import BottleneckConfig, add_type
from ftcli.tuners.bottleneck.layer import BottleneckLayer
from ftcli.tuners.bottleneck.model import BottleneckModel

__all__ = ["BottleneckConfig", "BottleneckLayer", "BottleneckModel"]

if add_type() not in PEFT_TYPE_TO_CONFIG_MAPPING:
    register_peft_method(name="bottleneck", config_cls=BottleneckConfig, model_cls=BottleneckModel)
assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType("BOTTLENECK")] is BottleneckConfig
