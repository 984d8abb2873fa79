"""Several real processes, killed and raced against each other."""
