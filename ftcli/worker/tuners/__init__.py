"""What PEFT does not provide: bottleneck adapters, and what some of its tuners leave to the training loop.

Importing this package registers our tuner with PEFT, so that `PeftModel.from_pretrained` loads adapters of its type:

    import ftcli.worker.tuners
    model = PeftModel.from_pretrained(base, "runs/…/model")
"""

from ftcli.worker.tuners.bottleneck import BottleneckConfig, BottleneckModel

__all__ = ["BottleneckConfig", "BottleneckModel"]
