"""`local`: a model or finished run of this machine."""

from ftcli.settings.backend_declaration import BackendType

BACKEND = BackendType(
    name="local",
    summary="A model through transformers.",
    answered_by="ftcli.worker.inference.backend_transformers:LocalModel",
    own_weights=True,
)
