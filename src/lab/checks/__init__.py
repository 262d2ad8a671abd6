"""What `lab.config` holds a config against, one idea a file; nothing here imports torch."""
