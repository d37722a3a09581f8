"""The tasks of an experiment, a file each: its parameters as a schema, and what it does."""
