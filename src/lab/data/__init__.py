"""Datasets, one file each: `lab.data.MNIST` is found in whichever file defines it."""

from lab.catalog import lazy

__getattr__ = lazy(__name__, __path__)
