"""Orthogonal fine-tuning (Qiu et al. 2023, arXiv:2306.07280), in the input-centric form of OFTv2 (arXiv:2506.19847)."""

from ftcli.counts import oft
from ftcli.methods.base import Knob
from ftcli.peft_methods.base import PeftMethod

METHODS = (
    PeftMethod(
        name="oft",
        kind="OFT",
        summary="Rotates the weights and keeps the angles between neurons: where forgetting is the fear.",
        paper="Qiu et al. 2023, arXiv:2306.07280",
        config="peft.tuners.oft.config:OFTConfig",
        defaults={"oft_block_size": 32, "target_modules": "all-linear"},
        limits={"oft_block_size": Knob(low=0), "r": Knob(low=0), "module_dropout": Knob(low=0, high=1)},
        count=oft,
    ),
)
