"""The worker half: reads one spec.json, does the heavy imports, trains. It knows nothing of argv, Hydra or recipes.

Importing this package only sets what the libraries read once, while they are imported: their telemetry is off unless
asked for, progress bars are ours, and warnings that no user can act on are silent. It imports nothing heavy itself.
"""

from __future__ import annotations

import logging
import os
import warnings

_DEFAULTS = {
    # Also silences TRL, whose trainers report through huggingface_hub.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    # Left unset, tokenizers warn at every fork; nothing here tokenises in a forked child.
    "TOKENIZERS_PARALLELISM": "true",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}

for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)

# Told at every import on a machine without a package that only 4-bit inference on CPU would use.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# TRL and PEFT use names whose successors transformers 5.17 does not know yet.
warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
warnings.filterwarnings("ignore", category=FutureWarning, message="`is_gradient_checkpointing` is deprecated")
# An adapter that stacks on an adapter has no configuration of a whole model below it; no vocabulary is resized here.
warnings.filterwarnings("ignore", message="Could not find a config file in", module=r"peft\..*")
