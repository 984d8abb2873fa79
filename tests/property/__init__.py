"""The compiled hot path against its plain-Python twins, on inputs that Hypothesis makes up."""
