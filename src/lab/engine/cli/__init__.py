"""Handles command lines: arguments, help, errors as exit codes."""
