"""`openai`: whoever answers at an address in the form of OpenAI's."""

from ftcli.settings.backend_declaration import BackendType

BACKEND = BackendType(
    name="openai",
    summary="Any endpoint of OpenAI's form.",
    answered_by="ftcli.synthesis.openai_backend:Endpoint",
    reads=(
        "model",
        "base_url",
        "api_key_env",
        "concurrency",
        "timeout_seconds",
        "max_retries",
        "max_requests",
        "max_tokens",
        "logprobs",
    ),
    endpoint=True,
    package="openai",
    missing="{key}=openai needs the package openai, which is not installed",
    remedy="pip install openai",
)
