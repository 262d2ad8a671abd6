"""Runs sweeps: many runs by one command."""
