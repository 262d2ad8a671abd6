"""Holds optimizers, schedules and regularization."""
