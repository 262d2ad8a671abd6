"""What a finished run is used for: predictions, exports, evaluation on other data; scripts/ is a thin layer over it."""
