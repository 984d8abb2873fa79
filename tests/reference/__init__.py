"""The plain-Python twins of the compiled hot path: what it must compute, in the simplest form that says so.

A twin has the interface of the module's ``.pyi`` and keeps its state in lists and dicts of one process. It knows nothing
of atomics, races or speed; where the compiled module and its twin differ, one of the two has a bug. Twins import no
compiled module, so that they cannot agree with it by accident.
"""
