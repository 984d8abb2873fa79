# Which data-parallel ranks of one engine hold a block: our chained hash of it -> one bit a rank. The prefix index has one bit an endpoint,
# which goes when the last rank has given the block away.
#
# An open-addressing table with linear probing, at most three quarters full, without tombstones, as that of _fastpath/kv_blocks.
from libc.stdint cimport uint64_t

cdef enum:
    MOST_RANKS = 64
    FIRST_CHAINS_BITS = 10
    FIRST_CHAINS = 1 << FIRST_CHAINS_BITS

cdef struct HeldChain:
    uint64_t chain
    uint64_t ranks                # 0 = free place

cdef class ChainRanks:
    cdef HeldChain* chains
    cdef size_t places
    cdef int shift                # of a chain's 64 bits, to its place
    cdef size_t count

    cdef size_t _place(self, uint64_t chain) noexcept nogil
    cdef int _grow(self) except -1
    cdef int add_rank(self, uint64_t chain, uint64_t rank) except -1
    cdef bint drop_rank(self, uint64_t chain, uint64_t rank) noexcept nogil
