"""Command lines: arguments, help, errors as exit codes."""
