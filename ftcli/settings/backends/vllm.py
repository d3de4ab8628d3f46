"""`vllm`: the same models as `local`, many questions at once."""

from ftcli.settings.backend_declaration import BackendType

BACKEND = BackendType(
    name="vllm",
    summary="A model through vLLM.",
    answered_by="ftcli.worker.inference.backend_vllm:Vllm",
    reads=("model", "revision", "batch_size", "gpu_memory_utilization", "max_model_length"),
    own_weights=True,
    package="vllm",
    missing="vLLM is not installed",
    remedy="pip install vllm, or leave it out: transformers answers then",
)
