cimport cython
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from _fastpath.atomics cimport (
    atomic_exchange_if_u64, atomic_load_u64, atomic_relaxed_u64, atomic_store_f64, atomic_store_u64,
)
from _fastpath.identity_table cimport identity_word
from _fastpath.token_bucket cimport PLACE_MASK, Bucket, Limits, TokenBuckets, _leased, _limits

cdef uint64_t UNSEEN = 0  # no state of a configured bucket

STANDINGS = ("unasked", "leased", "shared", "opened", "closed")


@cython.final
cdef class LeasedBuckets:
    def __cinit__(self):
        self._seen = NULL

    def __init__(self, TokenBuckets buckets not None):
        self._buckets = buckets
        free(self._seen)
        self._seen = <uint64_t*>calloc(buckets.capacity, sizeof(uint64_t))
        if self._seen == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._seen)

    # NULL when it was given to another.
    cdef Bucket* _of(self, uint64_t index, uint64_t identity) except? NULL:
        cdef Bucket* bucket = self._buckets._at(index)
        if atomic_load_u64(&bucket.identity) != identity_word(identity) or bucket.store == 0:
            return NULL
        return bucket

    def changed(self):
        cdef list found = []
        cdef uint64_t i, state, wanted, identity
        cdef Bucket* bucket
        cdef Limits* limits
        for i in range(atomic_load_u64(self._buckets.identities.high_water)):
            bucket = &self._buckets.buckets[i]
            identity = atomic_load_u64(&bucket.identity)
            state = atomic_load_u64(&bucket.state)
            if bucket.store == 0 or identity == 0 or identity & 1 or state & PLACE_MASK == 0:
                continue
            wanted = atomic_relaxed_u64(&bucket.wanted)
            if state == self._seen[i] and wanted == 0:
                continue
            while not atomic_exchange_if_u64(&bucket.wanted, wanted, 0):
                wanted = atomic_relaxed_u64(&bucket.wanted)
            self._seen[i] = state
            limits = _limits(bucket, state)
            found.append((
                i, identity, bucket.store, bucket.key, _leased(bucket, state), limits.tolerance / limits.interval, limits.interval * 1e-9, wanted))
        return found

    def grant(self, uint64_t index, uint64_t identity, int64_t tokens):
        cdef Bucket* bucket = self._of(index, identity)
        if tokens < 0:
            raise ValueError("tokens must not be negative")
        if bucket == NULL:
            return False
        self._buckets.give(bucket, tokens, 0)
        self._seen[index] = UNSEEN  # others may take it back to the very state that was seen before
        return True

    def withdraw(self, uint64_t index, uint64_t identity, int64_t tokens):
        cdef Bucket* bucket = self._of(index, identity)
        cdef uint64_t state
        cdef int64_t there
        if bucket == NULL:
            return 0
        state = atomic_load_u64(&bucket.state)
        if state & PLACE_MASK == 0:
            return 0
        there = min(<int64_t>_leased(bucket, state), tokens)
        if there <= 0 or self._buckets.take(bucket, there, 0) != 0:
            return 0
        self._seen[index] = UNSEEN
        return there

    def tell(self, uint64_t index, uint64_t identity, uint64_t standing, uint64_t dry_until, double elsewhere, double shares):
        cdef Bucket* bucket = self._of(index, identity)
        if standing >= <uint64_t>len(STANDINGS):
            raise ValueError(f"standing {standing} is none of {STANDINGS}")
        if bucket == NULL:
            return
        atomic_store_u64(&bucket.dry_until, dry_until)
        atomic_store_f64(&bucket.elsewhere, elsewhere)
        atomic_store_f64(&bucket.shares, shares)
        atomic_store_u64(&bucket.standing, standing)
