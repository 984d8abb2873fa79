cimport cython
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from _fastpath.atomics cimport (
    atomic_add_u64, atomic_and_u64, atomic_exchange_if_u64, atomic_load_u64, atomic_or_u64, atomic_relax_u64,
    atomic_relaxed_u64, atomic_store_u64,
)

cdef extern from *:
    """
    /* A bucket is three lines, and which of them is wanted is not known yet. */
    static inline void penstock_prefetch(const void *p) {
        __builtin_prefetch(p, 0, 1);
        __builtin_prefetch((const char *)p + 64, 0, 1);
        __builtin_prefetch((const char *)p + 128, 0, 1);
    }
    #define penstock_lowest_bit(v) __builtin_ctzll(v)
    """
    void penstock_prefetch(const void* p) noexcept nogil
    int penstock_lowest_bit(uint64_t v) noexcept nogil

cdef enum:
    PREFETCH = 16                 # blocks ahead: about a memory access of table walks


cdef inline uint64_t _key(uint64_t hash, uint64_t page) noexcept nogil:
    # multiplying by an odd number keeps distinct (hash, page) distinct for one page, and spreads pages over buckets
    cdef uint64_t key = (hash ^ (page * <uint64_t>0x9E3779B97F4A7C15)) * <uint64_t>0xD6E8FEB86659FD93
    return key if key != 0 else <uint64_t>1


cdef inline uint64_t _bucket(uint64_t key, uint64_t buckets) noexcept nogil:
    return ((key >> 32) * buckets) >> 32


cdef int pool_pages_make(PoolPages* pool, const uint64_t* slots, size_t count) except -1:
    cdef size_t i
    cdef uint64_t page, bit
    cdef uint32_t found
    pool.count = 0
    pool.pages = <uint32_t*>malloc(MAXIMUM_PAGES * sizeof(uint32_t))
    pool.members = <uint64_t*>calloc(MAXIMUM_PAGES, sizeof(uint64_t))
    pool.position = NULL
    if pool.pages == NULL or pool.members == NULL:
        pool_pages_free(pool)
        raise MemoryError
    for i in range(count):
        page = slots[i] // PAGE_SLOTS
        for found in range(pool.count):
            if pool.pages[found] == page:
                break
        else:
            if pool.count == MAXIMUM_PAGES:
                pool_pages_free(pool)
                raise ValueError("a pool spans more than 32,768 slots")
            found = pool.count
            pool.pages[found] = <uint32_t>page
            pool.count += 1
        if pool.members[found] & (<uint64_t>1 << (slots[i] % PAGE_SLOTS)):
            pool_pages_free(pool)
            raise ValueError(f"slot {slots[i]} stands twice in a pool")
        pool.members[found] |= <uint64_t>1 << (slots[i] % PAGE_SLOTS)
    pool.position = <int32_t*>malloc(max(<size_t>1, pool.count * PAGE_SLOTS * sizeof(int32_t)))
    if pool.position == NULL:
        pool_pages_free(pool)
        raise MemoryError
    memset(pool.position, 0xFF, pool.count * PAGE_SLOTS * sizeof(int32_t))
    for i in range(count):
        page = slots[i] // PAGE_SLOTS
        bit = slots[i] % PAGE_SLOTS
        for found in range(pool.count):
            if pool.pages[found] == page:
                pool.position[found * PAGE_SLOTS + bit] = <int32_t>i
                break
    return 0


cdef void pool_pages_free(PoolPages* pool) noexcept nogil:
    free(pool.pages)
    free(pool.members)
    free(pool.position)
    pool.pages = NULL
    pool.members = NULL
    pool.position = NULL
    pool.count = 0


@cython.final
cdef class PrefixIndex:
    def __init__(self, SharedMemory memory not None):
        self.memory = memory
        self.header = <PrefixHeader*>(memory.base + memory.header.prefix_at)
        self.entries = <PrefixEntry*>(memory.base + memory.header.prefix_at + sizeof(PrefixHeader))
        self.buckets = max(<uint64_t>1, memory.header.prefix_entries // WAYS)

    cdef PrefixEntry* _find(self, uint64_t key) noexcept nogil:
        cdef PrefixEntry* bucket = self.entries + _bucket(key, self.buckets) * WAYS
        cdef int way
        for way in range(WAYS):
            if atomic_load_u64(&bucket[way].key) == key:
                return &bucket[way]
        return NULL

    cdef int learn_blocks(self, const uint64_t* hashes, size_t count, uint64_t slot, uint32_t now, uint32_t oldest) noexcept nogil:
        cdef uint64_t page = slot // PAGE_SLOTS
        cdef uint64_t bit = <uint64_t>1 << (slot % PAGE_SLOTS)
        cdef PrefixEntry* bucket
        cdef PrefixEntry* entry
        cdef PrefixEntry* victim
        cdef uint64_t key, old
        cdef size_t i
        cdef int way, attempt
        for i in range(count):
            if i + PREFETCH < count:
                penstock_prefetch(self.entries + _bucket(_key(hashes[i + PREFETCH], page), self.buckets) * WAYS)
            key = _key(hashes[i], page)
            bucket = self.entries + _bucket(key, self.buckets) * WAYS
            for attempt in range(4):
                entry = NULL
                victim = &bucket[0]
                for way in range(WAYS):
                    old = atomic_load_u64(&bucket[way].key)
                    if old == key:
                        entry = &bucket[way]
                        break
                    if victim.key != 0 and (old == 0 or bucket[way].learned < victim.learned):
                        victim = &bucket[way]
                if entry != NULL:
                    if entry.learned < oldest:
                        atomic_relax_u64(&entry.holders, bit)
                    elif not atomic_relaxed_u64(&entry.holders) & bit:
                        atomic_or_u64(&entry.holders, bit)
                    entry.page = <uint32_t>page   # who made the entry may have been killed before it could say so
                    entry.learned = now
                    break
                old = atomic_load_u64(&victim.key)
                atomic_store_u64(&victim.holders, 0)
                if atomic_exchange_if_u64(&victim.key, old, key):
                    victim.page = <uint32_t>page
                    victim.learned = now
                    atomic_or_u64(&victim.holders, bit)
                    if old != 0:
                        atomic_add_u64(&self.header.evictions, 1)
                    break
        return 0

    # The place is given up by an exchange: it may belong to another block by now.
    cdef int discard_blocks(self, const uint64_t* hashes, size_t count, uint64_t slot) noexcept nogil:
        cdef uint64_t page = slot // PAGE_SLOTS
        cdef uint64_t bit = <uint64_t>1 << (slot % PAGE_SLOTS)
        cdef PrefixEntry* entry
        cdef uint64_t key
        cdef size_t i
        for i in range(count):
            if i + PREFETCH < count:
                penstock_prefetch(self.entries + _bucket(_key(hashes[i + PREFETCH], page), self.buckets) * WAYS)
            key = _key(hashes[i], page)
            entry = self._find(key)
            if entry == NULL or not atomic_relaxed_u64(&entry.holders) & bit:
                continue
            if atomic_and_u64(&entry.holders, ~bit) & ~bit == 0:
                atomic_exchange_if_u64(&entry.key, key, 0)
        return 0

    cdef inline uint64_t _holders(self, uint64_t hash, uint64_t page, uint32_t oldest) noexcept nogil:
        cdef PrefixEntry* entry = self._find(_key(hash, page))
        return 0 if entry == NULL or entry.learned < oldest else atomic_relaxed_u64(&entry.holders)

    # When the block was last learned for the slot or a neighbour that holds it too; 0 when the slot does not hold it.
    cdef uint32_t learned_at(self, uint64_t hash, uint64_t slot) noexcept nogil:
        cdef PrefixEntry* entry = self._find(_key(hash, slot // PAGE_SLOTS))
        if entry == NULL or not atomic_relaxed_u64(&entry.holders) >> (slot % PAGE_SLOTS) & 1:
            return 0
        return entry.learned

    # Each block is at a place of its own in memory: a long prompt's blocks, looked at one after the other, cost more than all else that
    # is done for a request. Who holds a block was sent all before it, so halving finds the same length.
    cdef void _halve(self, const uint64_t* hashes, size_t low, size_t high, uint64_t alive, uint64_t page, const int32_t* position,
                     uint32_t* lengths, uint32_t oldest) noexcept nogil:
        cdef size_t lows[PENDING]
        cdef size_t highs[PENDING]
        cdef uint64_t sets[PENDING]
        cdef uint64_t held
        cdef size_t middle
        cdef int pending = 0
        while True:
            while low < high:
                middle = low + (high - low + 1) // 2
                held = alive & self._holders(hashes[middle - 1], page, oldest)
                if held == 0:
                    high = middle - 1
                    continue
                if held != alive:
                    lows[pending], highs[pending], sets[pending] = low, middle - 1, alive & ~held
                    pending += 1
                alive = held
                low = middle
            while alive != 0:
                lengths[position[penstock_lowest_bit(alive)]] = <uint32_t>low
                alive &= alive - 1
            if pending == 0:
                return
            pending -= 1
            low, high, alive = lows[pending], highs[pending], sets[pending]

    cdef int match_pool(self, const uint64_t* hashes, size_t count, const PoolPages* pool, uint32_t* lengths,
                        uint32_t oldest) noexcept nogil:
        cdef uint64_t alive, holders, dropped, page
        cdef uint32_t p
        cdef size_t i, each = min(count, <size_t>LOOKED_AT_EACH)
        cdef const int32_t* position
        for p in range(pool.count):
            page = pool.pages[p]
            alive = pool.members[p]
            position = pool.position + p * PAGE_SLOTS
            for i in range(each):
                if i + PREFETCH < each:
                    penstock_prefetch(self.entries + _bucket(_key(hashes[i + PREFETCH], page), self.buckets) * WAYS)
                holders = self._holders(hashes[i], page, oldest)
                dropped = alive & ~holders
                alive &= holders
                if i > 0:
                    while dropped != 0:
                        lengths[position[penstock_lowest_bit(dropped)]] = <uint32_t>i
                        dropped &= dropped - 1
                if alive == 0:
                    break
            if alive != 0:
                self._halve(hashes, each, count, alive, page, position, lengths, oldest)
        return 0

    def learn(self, BlockHashes hashes not None, uint64_t slot, double now, double oldest=0):
        if slot >= self.memory.header.slots:
            raise IndexError(f"slot {slot} of {self.memory.header.slots}")
        self.learn_blocks(hashes.values, hashes.count, slot, <uint32_t>now, <uint32_t>oldest)

    def match(self, BlockHashes hashes not None, slots, double oldest=0):
        cdef PoolPages pool
        cdef size_t count = len(slots)
        cdef size_t i
        cdef uint64_t* wanted = <uint64_t*>malloc(max(<size_t>1, count) * sizeof(uint64_t))
        cdef uint32_t* lengths = <uint32_t*>calloc(max(<size_t>1, count), sizeof(uint32_t))
        memset(&pool, 0, sizeof(PoolPages))
        try:
            if wanted == NULL or lengths == NULL:
                raise MemoryError
            for i in range(count):
                wanted[i] = slots[i]
                if wanted[i] >= self.memory.header.slots:
                    raise IndexError(f"slot {wanted[i]} of {self.memory.header.slots}")
            pool_pages_make(&pool, wanted, count)
            self.match_pool(hashes.values, hashes.count, &pool, lengths, <uint32_t>oldest)
            return [lengths[i] for i in range(count)]
        finally:
            pool_pages_free(&pool)
            free(wanted)
            free(lengths)

    def discard(self, BlockHashes hashes not None, uint64_t slot):
        if slot >= self.memory.header.slots:
            raise IndexError(f"slot {slot} of {self.memory.header.slots}")
        self.discard_blocks(hashes.values, hashes.count, slot)

    def forget(self, uint64_t slot):
        if slot >= self.memory.header.slots:
            raise IndexError(f"slot {slot} of {self.memory.header.slots}")
        cdef uint64_t page = slot // PAGE_SLOTS
        cdef uint64_t bit = <uint64_t>1 << (slot % PAGE_SLOTS)
        cdef uint64_t i, left
        cdef PrefixEntry* entry
        with nogil:
            for i in range(self.buckets * WAYS):
                entry = &self.entries[i]
                if entry.page == page and atomic_relaxed_u64(&entry.holders) & bit:
                    left = atomic_and_u64(&entry.holders, ~bit) & ~bit
                    if left == 0:
                        atomic_relax_u64(&entry.key, 0)

    # Who learns a block again while this looks at it may lose it: a cache hit that is not expected.
    cdef uint64_t _forget_before(self, const uint64_t* members, const uint32_t* before) noexcept nogil:
        cdef uint64_t i, held, gone, forgotten = 0
        cdef uint32_t bit
        cdef PrefixEntry* entry
        for i in range(self.buckets * WAYS):
            entry = &self.entries[i]
            if entry.page >= self.memory.header.slots // PAGE_SLOTS or members[entry.page] == 0:
                continue
            held = atomic_relaxed_u64(&entry.holders) & members[entry.page]
            gone = 0
            while held != 0:
                bit = penstock_lowest_bit(held)
                held &= held - 1
                if entry.learned <= before[entry.page * PAGE_SLOTS + bit]:
                    gone |= <uint64_t>1 << bit
                    forgotten += 1
            if gone != 0 and atomic_and_u64(&entry.holders, ~gone) & ~gone == 0:
                atomic_relax_u64(&entry.key, 0)
        return forgotten

    def forget_before(self, before):
        cdef uint64_t slots = self.memory.header.slots
        cdef uint64_t slot, forgotten
        cdef uint64_t* members = <uint64_t*>calloc(slots // PAGE_SLOTS + 1, sizeof(uint64_t))
        cdef uint32_t* times = <uint32_t*>calloc(slots, sizeof(uint32_t))
        try:
            if members == NULL or times == NULL:
                raise MemoryError
            for name, when in before.items():
                slot = name
                if slot >= slots:
                    raise IndexError(f"slot {slot} of {slots}")
                members[slot // PAGE_SLOTS] |= <uint64_t>1 << (slot % PAGE_SLOTS)
                times[slot] = when
            with nogil:
                forgotten = self._forget_before(members, times)
            return forgotten
        finally:
            free(members)
            free(times)

    def clear(self):
        cdef uint64_t i
        with nogil:
            for i in range(self.buckets * WAYS):
                atomic_relax_u64(&self.entries[i].holders, 0)
                atomic_relax_u64(&self.entries[i].key, 0)

    def statistics(self):
        cdef uint64_t i, used = 0
        with nogil:
            for i in range(self.buckets * WAYS):
                used += self.entries[i].key != 0
        return {"entries": used, "capacity": self.buckets * WAYS, "evictions": atomic_load_u64(&self.header.evictions)}
