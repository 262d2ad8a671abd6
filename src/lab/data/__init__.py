"""Holds the datasets, one file each, and what they share."""
