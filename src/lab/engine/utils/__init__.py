"""Holds helpers for every other package; imports nothing of lab."""
