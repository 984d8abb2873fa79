"""The distribution as somebody installs it."""
