"""Our own trainers, built on the stable ones of TRL and transformers where those have none that will stay."""
