"""Uses a finished run: predictions, exports, evaluation."""
