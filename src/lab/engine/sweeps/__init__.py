"""Sweeps: many runs that one command makes."""
