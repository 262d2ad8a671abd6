"""Holds the architectures, one file each."""
