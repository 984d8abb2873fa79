"""Names for numbers in the request path."""

from __future__ import annotations

Count = int
"""A whole number that a compiled module takes as a C one, as its ``.pxd`` says; Cython takes ``int`` itself for Python's alone."""
Usage = tuple[int, int, int]
"""Input, output and cached tokens as an engine counted them (-1 cached: it did not say). Cython would take the tuple for one of its own."""
