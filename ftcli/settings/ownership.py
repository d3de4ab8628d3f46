"""Flags that grant what a file alone may not request, and the names that two settings know.

Who owns or reads each library field stands in the table of fields (fields/field_table.py).
"""

from __future__ import annotations

from collections.abc import Mapping

PUSH = "--push-to-hub"
"""The flag that lets a run publish its model, or what it logs, at the hub."""
REMOTE_CODE = "--trust-remote-code"
"""The flag that lets a model or an attention kernel run the code that it ships."""
REWARD_CODE = "--trust-reward-code"
"""The flag that lets Python code of the user's own give rewards."""
ENDPOINT = "--allow-endpoint"
"""The flag that allows an endpoint named in a file: it is sent rows, and the key in a variable that the file names."""
ALLOW_PATH = "--allow-path"
"""The flag that lets a file name paths outside its own folder, and files that a library writes."""
TASK_CODE = "--trust-task-code"
"""The flag that lets a task of `ftcli eval --tasks` run Python code that its file names, or that the model writes."""
FLAGS = frozenset({PUSH, REMOTE_CODE, REWARD_CODE, ENDPOINT, ALLOW_PATH})
"""Every flag that grants a run something."""

# Attention kernels of the installed libraries; any other name is a hub repository whose code would run.
ATTENTION = (
    *("auto", "sdpa", "eager", "flex_attention"), *("flash_attention_2", "flash_attention_3", "flash_attention_4")
)  # fmt: skip

# Integrations that train.report_to can name, and the package that each needs.
REPORTERS: Mapping[str, str] = {
    "azure_ml": "azureml", "clearml": "clearml", "codecarbon": "codecarbon", "comet_ml": "comet_ml",
    "dagshub": "dagshub", "dvclive": "dvclive", "flyte": "flytekit", "kubeflow": "kubeflow", "mlflow": "mlflow",
    "neptune": "neptune", "swanlab": "swanlab", "tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb",
}  # fmt: skip
LOCAL_REPORTERS = ("none", "tensorboard", "trackio")
"""Values of train.report_to that keep what they are told on this machine: in the run, or in trackio's own cache."""
