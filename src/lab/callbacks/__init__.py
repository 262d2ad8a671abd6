"""Callbacks, one file each: `lab.callbacks.Throughput` is found in whichever file defines it."""

from lab.catalog import lazy

__getattr__ = lazy(__name__, __path__)
