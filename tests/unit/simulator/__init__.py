"""The simulated engine: its cache, its timing, its HTTP."""
