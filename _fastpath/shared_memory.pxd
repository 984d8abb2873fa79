# The one mapped file that workers, supervisor and sidecar share.
#
#   header (4 KiB) | worker rows | slots | load | engine metrics | buckets | journals | prefix index | counters | health | adapters
#   | fair shares | lengths of answers
#
# The header is complete before the file gets its name (it is created under another one and renamed), and never changes after.
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

cdef enum:
    MAXIMUM_WORKERS = 128
    LOAD_CELL_BYTES = 72

cdef struct Header:
    uint64_t magic
    uint64_t layout_version
    uint64_t size                 # bytes of the whole file
    uint64_t checksum             # over every field below
    uint64_t hash_key_low         # keys of prompt hashes, random per run directory
    uint64_t hash_key_high
    uint64_t workers              # rows with one writer each; one further row belongs to the sidecar
    uint64_t slots                # endpoints that can be named at once
    uint64_t buckets              # token buckets
    uint64_t journal_records      # requests in flight that can hold reservations, a worker
    uint64_t prefix_entries       # a multiple of eight, the ways of a bucket
    uint64_t counter_series       # labelled series a worker
    uint64_t counter_cells        # numbers a worker
    uint64_t worker_rows_at       # offsets in bytes from the start of the file
    uint64_t slots_at
    uint64_t load_at
    uint64_t metrics_at
    uint64_t buckets_at
    uint64_t journals_at
    uint64_t prefix_at
    uint64_t counters_at
    uint64_t health_at
    uint64_t adapters_at
    uint64_t fair_at
    uint64_t lengths_at

# One worker (or the sidecar: the last row). Written by its owner; `process` also by the supervisor when it buries the owner.
cdef struct WorkerRow:
    uint64_t process              # process id, 0 when nobody owns the row
    uint64_t started              # start of the process in clock ticks since boot: tells a reused process id apart
    uint64_t heartbeat            # monotonic nanoseconds, every 100 ms
    uint64_t state                # 0 starting, 1 serving, 2 draining
    uint64_t epoch                # of the snapshot that it serves
    uint64_t sequence
    uint64_t applied              # monotonic nanoseconds of the last applied frame
    uint64_t in_flight            # requests it holds, streams too
    uint64_t resident             # bytes
    uint64_t loop_lag             # nanoseconds, worst of the last second
    uint64_t waiting              # requests that wait for an endpoint with room
    uint64_t reserved[5]

cdef class SharedMemory:
    cdef object _mapping
    cdef Py_buffer _view
    cdef bint _held
    cdef char* base
    cdef Header* header
    cdef readonly str path
    cdef readonly uint64_t inode

    cdef int _map(self, object mapping) except -1
    cdef WorkerRow* row(self, uint64_t index) except NULL
