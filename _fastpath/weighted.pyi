"""Weighted scores: the sum of the reference system's, each 0 to 100, times their weights. For compiled callers alone."""
