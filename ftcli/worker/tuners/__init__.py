"""What PEFT has not: bottleneck adapters, and what some of its tuners leave to whoever trains.

Importing this package makes our tuner known to PEFT, so that `PeftModel.from_pretrained` loads an adapter of its type:

    import ftcli.worker.tuners
    model = PeftModel.from_pretrained(base, "runs/…/model")
"""

from ftcli.worker.tuners.bottleneck import BottleneckConfig, BottleneckModel

__all__ = ["BottleneckConfig", "BottleneckModel"]
