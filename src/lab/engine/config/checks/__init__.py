"""What `lab.engine.config.validate` holds a config against, one idea a file."""
