"""Benchmarks of single compiled calls beside their plain-Python twins."""
