cimport cython
from _fastpath.hashing cimport BlockHashes, Hasher
from _fastpath.scanner cimport Scan
from _fastpath.scoring cimport Scheduler
from gateway.scheduling.pool cimport PlacedEndpoint, ServerPool

cdef class Placement:
    cdef readonly ServerPool pool
    cdef readonly PlacedEndpoint placed
    cdef readonly long long position, blocks, matched_blocks, prefill_tokens, output_tokens, queued_tokens, probe, matched_at
    cdef readonly double prefill_seconds
    cdef public bint has_first_token

cdef class Placer:
    cdef Scheduler _scheduler
    cdef Hashers _hashers
    cdef object _clock, _corrections
    cpdef hash_prompt(self, ServerPool server, bytes body, Scan found, bytes salt=*)
    cpdef place(self, ServerPool server, BlockHashes hashes, long long prompt_tokens, long long output_tokens, tried,
                unsigned long long session=*, bint learn=*, unsigned long long adapter=*, adjustments=*, bint narrow=*)
    cpdef note(self, Placement placement, long outcome, double sent)
    cpdef first_token(self, Placement placement, double seconds)
    cpdef release(self, Placement placement)
    @cython.locals(expected=double, cached="long long", prompt="long long", placed=PlacedEndpoint)
    cpdef str correct(self, Placement placement, BlockHashes hashes, usage, double sent)

cdef class Hashers:
    cdef object _key
    cdef dict _by_size, _seeds
    cpdef _seed(self, Hasher hasher, str model, bytes salt)
    cpdef prompt(self, bytes body, Scan found, cache, bytes salt=*)
    cpdef Hasher _of_size(self, size_t size)

cpdef session_of(ServerPool server, header, str prompt_cache_key)
