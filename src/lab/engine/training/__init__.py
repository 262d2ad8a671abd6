"""Trains one run."""

from lab.engine.utils.console import ignore_known_warnings

ignore_known_warnings()
