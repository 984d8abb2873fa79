# Block hash -> holders, shared by all workers, without a lock.
#
# The table is set-associative: a hash may lie at any of the WAYS places of its bucket. One entry says which of 64 neighbouring
# slots (a page) hold the block; a block held on several pages has an entry for each, so any number of endpoints can hold it. When a
# bucket is full, the entry that was learned longest ago makes room.
#
# Engines let go of what nobody used for long. Who knows for how long they keep it says since when an entry must have been learned to
# count (`oldest`); learning one that is older than that begins its holders anew.
#
# Entries are hints. A new entry takes its place in three steps that are harmless to be killed between: holders of the victim to
# none, key exchanged, holder bit set. Races may lose a bit, or for a moment show one too many: a cache hit less, never a
# wrong answer.
from libc.stdint cimport int32_t, uint32_t, uint64_t
from _fastpath.hashing cimport BlockHashes
from _fastpath.shared_memory cimport SharedMemory

cdef enum:
    WAYS = 8
    PAGE_SLOTS = 64
    MAXIMUM_PAGES = 512           # a pool may span this many pages: 32,768 slots
    LOOKED_AT_EACH = 32           # blocks from the first; beyond them lengths are found by halving
    PENDING = 64                  # more than the binary digits of any number of blocks
    FRESH_SECONDS = 8             # what was learned since then need not be learned again

cdef struct PrefixEntry:
    uint64_t key                  # hash mixed with the page; 0 = free
    uint64_t holders              # one bit a slot of the page
    uint32_t page
    uint32_t learned              # seconds of the clock that the caller passes, of the last time it was learned

cdef struct PrefixHeader:
    uint64_t evictions
    uint64_t reserved[7]

# The slots of a pool, sorted into pages once, when the pool is made.
cdef struct PoolPages:
    uint32_t count
    uint32_t* pages               # [count]
    uint64_t* members             # [count] bits of the pool's slots
    int32_t* position             # [count * 64] slot bit -> position in the pool, -1

cdef class PrefixIndex:
    cdef SharedMemory memory
    cdef PrefixHeader* header
    cdef PrefixEntry* entries
    cdef uint64_t buckets

    cdef PrefixEntry* _find(self, uint64_t key) noexcept nogil
    cdef uint64_t _holders(self, uint64_t hash, uint64_t page, uint32_t oldest) noexcept nogil
    cdef uint32_t learned_at(self, uint64_t hash, uint64_t slot) noexcept nogil
    cdef uint64_t _forget_before(self, const uint64_t* members, const uint32_t* before) noexcept nogil
    cdef void _halve(self, const uint64_t* hashes, size_t low, size_t high, uint64_t alive, uint64_t page, const int32_t* position,
                     uint32_t* lengths, uint32_t oldest) noexcept nogil
    cdef int learn_blocks(self, const uint64_t* hashes, size_t count, uint64_t slot, uint32_t now, uint32_t oldest) noexcept nogil
    cdef int discard_blocks(self, const uint64_t* hashes, size_t count, uint64_t slot) noexcept nogil
    cdef int match_pool(self, const uint64_t* hashes, size_t count, const PoolPages* pool, uint32_t* lengths,
                        uint32_t oldest) noexcept nogil

cdef int pool_pages_make(PoolPages* pool, const uint64_t* slots, size_t count) except -1
cdef void pool_pages_free(PoolPages* pool) noexcept nogil
