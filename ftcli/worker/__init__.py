"""The worker half: reads one spec.json, does the heavy imports, trains. It knows nothing of argv, Hydra or recipes.

Importing this package only sets the environment that the libraries read once, while they are imported: their telemetry
is off unless asked for, and progress bars are ours. It imports nothing heavy itself.
"""

from __future__ import annotations

import os

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
