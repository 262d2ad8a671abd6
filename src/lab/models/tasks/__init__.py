"""Serves what architectures share: loss, metrics, optimizers."""
