"""Composes, checks and instantiates configs; loads no torch."""
