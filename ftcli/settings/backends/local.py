"""`local`: a model or finished run of this machine."""

from ftcli.settings.backend_declaration import BackendType

BACKEND = BackendType(
    name="local",
    summary="A model through transformers.",
    answered_by="ftcli.worker.inference.backend_transformers:LocalModel",
    reads=("model", "revision", "batch_size"),
    own_weights=True,
)
