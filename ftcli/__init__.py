"""ftcli: declarative fine-tuning of language models, from a YAML recipe to a trained model."""

__version__ = "0.1.0"
