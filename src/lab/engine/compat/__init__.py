"""Holds every private name of a library that we use, one file a library, each with the reason."""
