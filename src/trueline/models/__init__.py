"""Everything that knows a net: the backbone, its text, attention layers, schedulers, checkpoints and adapters."""
