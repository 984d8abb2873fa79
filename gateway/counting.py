"""A name for whole numbers in the request path."""

from __future__ import annotations

Count = int
"""A whole number that a compiled module takes as a C one, as its ``.pxd`` says; Cython takes ``int`` itself for Python's alone."""
