"""What the type stubs say against what is compiled."""
