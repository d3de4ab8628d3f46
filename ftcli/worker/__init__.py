"""The worker half: reads one spec.json, imports the heavy libraries, trains. Knows nothing of argv, Hydra or recipes.

Importing this package only sets what the libraries read once, at import: telemetry is off unless requested, their
progress bars are off in favour of ours, and warnings that no user can act on are silenced. It imports nothing heavy.
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

# torch.load runs no code of a file, also where a library asks it to, as DeepSpeed does with its checkpoints, and
# whatever the environment says.
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)

# It warns at every import on a machine without a package that only 4-bit inference on CPU would use.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# TRL and PEFT use the old names, because transformers 5.17 does not have the new ones yet.
warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
warnings.filterwarnings("ignore", category=FutureWarning, message="`is_gradient_checkpointing` is deprecated")
# PEFT looks for the base model's config to detect a resized vocabulary. An adapter stacked on an adapter has no such
# config below it, and ftcli never resizes a vocabulary.
warnings.filterwarnings("ignore", message="Could not find a config file in", module=r"peft\..*")
