"""`rules`: no model, but patterns that tell a bad answer."""

from ftcli.settings.backend_declaration import BackendType

BACKEND = BackendType(
    name="rules",
    summary="Regular expressions, no model.",
    answered_by="ftcli.synthesis.regex_backend:Rules",
    reads=("patterns",),
)
