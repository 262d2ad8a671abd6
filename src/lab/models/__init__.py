"""Architectures, one file each: `lab.models.LeNet` is found in whichever file defines it."""

from lab.catalog import lazy

__getattr__ = lazy(__name__, __path__)
