cimport cython
from _fastpath.clock cimport seconds as seconds_of
from _fastpath.hashing cimport BlockHashes, Hasher
from _fastpath.scanner cimport Scan
from _fastpath.pool cimport Pool
from _fastpath.scheduler cimport Scheduler
from gateway.deadlines cimport Deadlines
from gateway.scheduling.corrections cimport Corrections
from gateway.scheduling.pool cimport PlacedEndpoint, ServerPool

@cython.freelist(64)
cdef class Placement:
    cdef readonly ServerPool pool
    cdef readonly Pool among
    cdef readonly PlacedEndpoint placed
    cdef readonly long long position, blocks, matched_blocks, prefill_tokens, output_tokens, queued_tokens, probe, matched_at
    cdef readonly double prefill_seconds
    cdef public bint has_first_token
    cdef Placer _placer
    cdef Deadlines _deadlines
    cdef double _due
    cpdef expect_prefill(self, Placer placer, Deadlines deadlines, double sent)
    cpdef check(self, double now)

cdef class Placer:
    cdef Scheduler _scheduler
    cdef Hashers _hashers
    cdef object _clock
    cdef Corrections _corrections
    cdef dict _in_vain
    cdef double _missed_tokens, _missed_share
    @cython.locals(hasher=Hasher, model=str)
    cpdef BlockHashes hash_prompt(self, ServerPool server, bytes body, Scan found, bytes salt=*)
    cpdef Placement place(self, ServerPool server, BlockHashes hashes, long long prompt_tokens, long long output_tokens, tried,
                          unsigned long long session=*, bint learn=*, unsigned long long adapter=*, adjustments=*, bint narrow=*)
    @cython.locals(scheduler=Scheduler, among=Pool, position=long, placement=Placement)
    cpdef Placement try_place(self, ServerPool server, BlockHashes hashes, long long prompt_tokens, long long output_tokens, tried,
                              unsigned long long session, bint learn, unsigned long long adapter, adjustments, bint narrow, double now)
    @cython.locals(placed=PlacedEndpoint)
    cpdef long note(self, Placement placement, long outcome, double sent, double now=*) except -1
    @cython.locals(pool=Pool, tokens="long long")
    cpdef first_token(self, Placement placement, double seconds, double now=*)
    cpdef release(self, Placement placement)
    @cython.locals(expected=double, missed=double, cached="long long", prompt="long long", placed=PlacedEndpoint, pool=Pool)
    cpdef refresh(self, Placement placement, BlockHashes hashes, double sent)
    cpdef str correct(self, Placement placement, BlockHashes hashes, tuple usage, double sent)

cdef class Hashers:
    cdef object _key
    cdef dict _by_size, _seeds
    cpdef unsigned long long seed(self, Hasher hasher, str model, bytes salt) except? 0
    cpdef BlockHashes prompt(self, bytes body, Scan found, cache, bytes salt=*)
    @cython.locals(hasher=Hasher, seed="unsigned long long")
    cpdef BlockHashes text(self, bytes body, Scan found, size_t block_bytes, bytes salt)
    cpdef Hasher of_size(self, size_t size)

cpdef unsigned long long session_of(ServerPool server, header, str prompt_cache_key) except? 0
cpdef unsigned long long session_named(names, header, str prompt_cache_key) except? 0
