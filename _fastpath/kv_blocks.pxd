# What one engine says it holds: its own name of a block -> our chained hash of the block's tokens, and so what it holds in the prefix index.
#
# An open-addressing table with linear probing, at most three quarters full; a removal moves back what stands behind it, so that there are
# no tombstones. It doubles up to its limit, beyond which blocks are left out: a cache hit less, never more memory.
from libc.stdint cimport uint32_t, uint64_t
from _fastpath.chain_ranks cimport ChainRanks
from _fastpath.prefix_index cimport PrefixIndex

cdef enum:
    FIRST_PLACES_BITS = 10
    FIRST_PLACES = 1 << FIRST_PLACES_BITS
    LARGEST_EVENT = 1 << 20       # blocks of one event

# The engine's name of a block: whole numbers as they are, bytes by 128 bits of keyed hash.
cdef struct BlockName:
    uint64_t low
    uint64_t high

cdef struct HeldBlock:
    BlockName name
    uint64_t chain                # our hash of all tokens up to the block's end
    uint64_t tiers                # one bit for each kind of memory that holds it; 0 = free place

cdef class KVBlocks:
    cdef PrefixIndex index
    cdef uint64_t key[6]
    cdef HeldBlock* blocks
    cdef readonly size_t places
    cdef int shift                # of a name's 64 bits, to its place
    cdef size_t count
    cdef readonly size_t limit
    cdef ChainRanks ranks         # of the engine when it has several, else None
    cdef uint64_t rank            # this one's bit
    cdef BlockName* names         # of the event that is being applied
    cdef uint64_t* chains
    cdef uint32_t* tokens
    cdef size_t event_blocks      # capacity of names and chains
    cdef size_t event_tokens

    cdef size_t _home(self, BlockName name) noexcept nogil
    cdef size_t _place(self, BlockName name) noexcept nogil
    cdef int _grow(self) except -1
    cdef int _room(self, size_t blocks, size_t tokens) except -1
    cdef int _read_name(self, object value, BlockName* name) except -1
    cdef int _read_tokens(self, list tokens) except -1
    cdef int _insert(self, BlockName name, uint64_t chain, uint64_t tier) except -1
    cdef void _take_out(self, size_t place) noexcept nogil
    cdef size_t _note_again(self, size_t count, uint64_t tier) noexcept nogil
