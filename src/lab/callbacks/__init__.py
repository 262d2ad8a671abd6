"""Holds the callbacks, one file each."""
