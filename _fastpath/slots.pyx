cimport cython
from libc.string cimport memset

from _fastpath.atomics cimport (
    atomic_exchange_if_u64, atomic_fence, atomic_load_u64, atomic_load_u8, atomic_store_u64, atomic_store_u8,
    processor_yield,
)
from _fastpath.hashing cimport Hasher
from _fastpath.identity_table cimport (
    ATTEMPTS, LOOKS, TABLE_BUSY, TABLE_FULL, identity_at, identity_confirm, identity_find, identity_settle,
    identity_take_free, identity_word,
)


cdef Hasher _hasher = Hasher((0x50656E73746F636B, 0x736C6F747321))


def endpoint_identity(str text not None):
    return _hasher.seed(text)


class SlotsFull(Exception):
    """More endpoints than the shared memory has slots."""


@cython.final
cdef class Slots:
    def __init__(self, SharedMemory memory not None):
        self.memory = memory
        self.capacity = memory.header.slots
        self.rows = memory.header.workers + 1
        cdef char* at = memory.base + memory.header.slots_at
        self.identities.high_water = <uint64_t*>at
        self.identities.words = <uint64_t*>(at + 64)
        self.identities.stride = 1
        self.identities.capacity = self.capacity
        self.generations = self.identities.words + self.capacity
        self.references = <uint8_t*>(self.generations + self.capacity)
        self._unconfirmed = {}

    cdef bint is_current(self, uint64_t slot, uint64_t generation) noexcept nogil:
        return slot < self.capacity and atomic_load_u64(&self.generations[slot]) == generation

    cdef bint is_referenced(self, uint64_t slot) noexcept nogil:
        cdef uint64_t row
        for row in range(self.rows):
            if atomic_load_u8(&self.references[row * self.capacity + slot]) != 0:
                return True
        return False

    def acquire(self, uint64_t row, uint64_t identity):
        if row >= self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        cdef uint64_t word = identity_word(identity)
        cdef uint64_t generation
        cdef long slot
        cdef int attempt
        for attempt in range(ATTEMPTS):
            slot = identity_find(&self.identities, word)
            if slot < 0:
                slot = identity_take_free(&self.identities, 0, word)
                if slot == TABLE_FULL:
                    raise SlotsFull(f"all {self.capacity} endpoint slots are taken: raise `shared_memory.slots`")
                slot = identity_confirm(&self.identities, slot, word)
            if slot == TABLE_BUSY:
                identity_settle(&self.identities, word)
                continue
            atomic_store_u8(&self.references[row * self.capacity + <uint64_t>slot], 1)
            atomic_fence()
            generation = self._settled_generation(slot)
            if atomic_load_u64(identity_at(&self.identities, slot)) == word and not generation & 1:
                return (slot, generation)
            atomic_store_u8(&self.references[row * self.capacity + <uint64_t>slot], 0)
        raise SlotsFull("another process died while it claimed this endpoint's slot: the supervisor clears it within two seconds")

    # The slot's generation once the supervisor is not just looking whether it can be freed.
    cdef uint64_t _settled_generation(self, uint64_t slot) noexcept nogil:
        cdef uint64_t generation
        cdef int look
        for look in range(LOOKS):
            generation = atomic_load_u64(&self.generations[slot])
            if not generation & 1:
                break
            processor_yield()
        return generation

    def find(self, uint64_t identity):
        cdef long slot = identity_find(&self.identities, identity_word(identity))
        if slot < 0:
            return None
        cdef uint64_t generation = atomic_load_u64(&self.generations[slot])
        return None if generation & 1 else (slot, generation)

    def drop(self, uint64_t row, uint64_t slot):
        if row >= self.rows or slot >= self.capacity:
            raise IndexError(f"row {row} of {self.rows}, slot {slot} of {self.capacity}")
        atomic_store_u8(&self.references[row * self.capacity + slot], 0)

    def drop_row(self, uint64_t row):
        if row >= self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        memset(&self.references[row * self.capacity], 0, self.capacity)
        atomic_fence()

    def is_live(self, uint64_t slot, uint64_t generation):
        return self.is_current(slot, generation)

    def sweep(self):
        cdef uint64_t slot, word, generation
        cdef dict unconfirmed = {}
        freed = []
        for slot in range(atomic_load_u64(self.identities.high_water)):
            word = atomic_load_u64(identity_at(&self.identities, slot))
            if word == 0:
                continue
            if word & 1:
                if self._unconfirmed.get(slot) == word:
                    atomic_exchange_if_u64(identity_at(&self.identities, slot), word, 0)
                else:
                    unconfirmed[slot] = word
                continue
            if self.is_referenced(slot):
                continue
            generation = atomic_load_u64(&self.generations[slot])
            atomic_store_u64(&self.generations[slot], generation | 1)
            atomic_fence()
            if self.is_referenced(slot):
                atomic_store_u64(&self.generations[slot], generation & ~<uint64_t>1)
                continue
            atomic_store_u64(identity_at(&self.identities, slot), 0)
            atomic_store_u64(&self.generations[slot], (generation | 1) + 1)
            freed.append(slot)
        self._unconfirmed = unconfirmed
        return freed

    @property
    def in_use(self):
        cdef uint64_t slot, count = 0
        for slot in range(atomic_load_u64(self.identities.high_water)):
            count += atomic_load_u64(identity_at(&self.identities, slot)) != 0
        return count
