"""One behaviour each, in one process."""
