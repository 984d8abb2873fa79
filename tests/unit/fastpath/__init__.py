"""Named behaviours and errors of the compiled hot path."""
