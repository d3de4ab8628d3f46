"""What PEFT does not provide: bottleneck adapters, and what some of its tuners leave to the training loop.

Importing this package registers our tuner with PEFT, so that `PeftModel.from_pretrained` loads adapters of its type,
and keeps learned prompts next to their rows (see left_padding.py):

    import ftcli.worker.tuners
    model = PeftModel.from_pretrained(base, "runs/…/model")
"""

from ftcli.worker.tuners.bottleneck import BottleneckConfig, BottleneckModel
from ftcli.worker.tuners.left_padding import keep_prompts_with_rows

keep_prompts_with_rows()

__all__ = ["BottleneckConfig", "BottleneckModel"]
