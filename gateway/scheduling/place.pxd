from _fastpath.hashing cimport BlockHashes
from _fastpath.scanner cimport Scan
from _fastpath.scoring cimport Scheduler
from gateway.scheduling.pool cimport ServerPool

cdef class Placement:
    cdef readonly ServerPool pool
    cdef readonly object placed
    cdef readonly long long position, blocks, matched_blocks, prefill_tokens, output_tokens, queued_tokens, probe, matched_at
    cdef public bint has_first_token

cdef class Placer:
    cdef Scheduler _scheduler
    cdef Hashers _hashers
    cdef object _clock, _corrections
    cpdef first_token(self, Placement placement, double seconds)
    cpdef release(self, Placement placement)

cdef class Hashers:
    cdef object _key
    cdef dict _by_size
