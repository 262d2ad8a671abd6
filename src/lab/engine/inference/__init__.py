"""Predicts with a finished run, and exports its model."""
