"""Runs research code. It knows nothing of models, data, callbacks or optimizers of the project."""
