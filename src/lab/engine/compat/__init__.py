"""Private names of the libraries, one file a library, each with the reason."""
