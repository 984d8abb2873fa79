# The choice of an endpoint: filters, scores and the pick over all endpoints of a pool in one call, with the prefix match before and
# the charge of load and the learning of the prefix after.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from _fastpath.adapters cimport Adapters
from _fastpath.hashing cimport BlockHashes
from _fastpath.health cimport Health
from _fastpath.load cimport Load
from _fastpath.policy cimport Policy
from _fastpath.pool cimport Candidate, Pool
from _fastpath.prefix_index cimport PrefixIndex
from _fastpath.shared_memory cimport SharedMemory

cdef class Scheduler:
    cdef SharedMemory memory
    cdef readonly Load load
    cdef readonly PrefixIndex prefixes
    cdef readonly Adapters adapters
    cdef readonly uint32_t matched_blocks # of the last decision, at the endpoint that it chose
    cdef readonly int64_t uncached_tokens # prompt tokens that were charged there
    cdef readonly int64_t queued_tokens   # prompt tokens that were still to be computed where the last decision went
    cdef readonly double prefill_seconds  # that it and what was queued before it were expected to take there
    cdef readonly uint32_t matched_at     # second in which the last block that was matched there had been learned, 0 for none
    cdef readonly Health health
    cdef readonly uint64_t probe  # token of the probe that the last decision claimed, else 0
    cdef uint64_t random_state
    cdef readonly uint64_t gateway        # what this gateway's biases come from
    cdef uint32_t oldest          # seconds at which a block must have been learned to count in the last decision
    cpdef long choose(self, Pool pool, Policy policy, BlockHashes hashes, int64_t prompt_tokens, int64_t output_tokens, double now,
                      uint32_t role, excluded, bint dry, uint64_t session, bint learn, uint64_t adapter, adjustments) except -2
    cpdef object prefilled(self, Pool pool, size_t chosen, double tokens, double seconds)
    cpdef object release(self, Pool pool, size_t chosen, int64_t prefill_tokens, int64_t decode_tokens)
    cpdef object first_token(self, Pool pool, size_t chosen, int64_t prefill_tokens, double now=*)
    cdef Candidate* _at(self, Pool pool, size_t position) except NULL
    cpdef bint refresh(self, Pool pool, size_t chosen, BlockHashes hashes, double sent, double now) except -1
    cdef long _pick(self, Pool pool) noexcept nogil
    cdef long _pick_and_claim(self, Pool pool, long chosen, double now) noexcept nogil
    cdef void _learn(self, const uint64_t* hashes, size_t blocks, size_t matched, uint64_t slot, uint32_t now) noexcept nogil
    cdef long _choose(self, Pool pool, Policy policy, const uint64_t* hashes, size_t blocks, double prompt_tokens,
                      double output_tokens, double now, uint32_t role, uint64_t session, bint by_token,
                      uint64_t adapter) noexcept nogil
