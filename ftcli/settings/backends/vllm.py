"""`vllm`: the same models as `local`, many questions at once."""

from ftcli.settings.backend_declaration import BackendType

BACKEND = BackendType(
    name="vllm",
    summary="A model through vLLM.",
    answered_by="ftcli.worker.inference.backend_vllm:Vllm",
    own_weights=True,
    package="vllm",
    missing="vLLM is not installed",
    remedy="pip install vllm, or leave it out: transformers answers then",
)
