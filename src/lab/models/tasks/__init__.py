"""What architectures share: loss, metrics, optimizers."""
