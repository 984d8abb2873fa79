"""What the rigs count and compute, without running them."""
