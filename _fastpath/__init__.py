"""The compiled hot path: shared memory and the arithmetic of one request.

Here belongs what runs once a request, and what writes the memory that a request reads: endpoint slots, load, token buckets,
prompt hashes, the prefix index, the choice of an endpoint, counters and the JSON scanner. Nothing here does I/O (mapping the one
shared file apart), reads a clock or logs; time is always an argument. Nothing here imports another package of ours.

Each module is three files: ``.pxd`` is the contract, ``.pyi`` the documentation, ``.pyx`` the work. There is no fallback in
Python: a gateway that silently ran fifty times slower would be worse than one that says what is missing.
"""

try:
    from _fastpath import shared_memory as _compiled  # noqa: F401
except ImportError as error:  # pragma: no cover - seen only in a tree that was never built
    raise ImportError("Penstock's compiled modules are missing or out of date: run `make build`") from error
