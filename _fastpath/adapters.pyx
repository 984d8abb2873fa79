cimport cython

from _fastpath.atomics cimport atomic_load_u64, atomic_relax_u64, atomic_relaxed_u64, atomic_store_u64

AFFINITIES = ("untold", "loaded", "room", "queued", "taken")


cdef inline uint64_t _marked(uint64_t name, bint loaded) noexcept nogil:
    # 0 ends a row: the name of all zeros is taken for the next one
    return (max(name & ~<uint64_t>1, <uint64_t>2)) | loaded


@cython.final
cdef class Adapters:
    def __init__(self, SharedMemory memory not None):
        self.memory = memory
        self.slots = Slots(memory)
        self.rows = <AdapterRow*>(memory.base + memory.header.adapters_at)
        self.capacity = memory.header.slots

    cdef Affinity affinity(self, uint64_t slot, uint64_t generation, uint64_t adapter) noexcept nogil:
        cdef AdapterRow* row = &self.rows[slot]
        cdef uint64_t wanted = _marked(adapter, True), name
        cdef int i
        if atomic_load_u64(&row.generation) != generation or row.capacity == 0:
            return UNTOLD
        for i in range(ADAPTERS_OF_ROW):
            name = atomic_relaxed_u64(&row.names[i])
            if name == 0:
                break
            if name | 1 == wanted:
                return LOADED if name & 1 else QUEUED
        return ROOM if row.busy < row.capacity else TAKEN

    def write(self, uint64_t slot, uint64_t generation, uint32_t capacity, uint32_t busy, loaded, waited_for=()):
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        if not self.slots.is_current(slot, generation):
            return False
        cdef uint64_t names[30]
        cdef int count = 0, i
        for is_loaded, some in ((True, loaded), (False, waited_for)):
            for name in some:
                if count < ADAPTERS_OF_ROW:
                    names[count] = _marked(name, is_loaded)
                    count += 1
        cdef AdapterRow* row = &self.rows[slot]
        if atomic_load_u64(&row.generation) != generation:
            atomic_relax_u64(&row.names[0], 0)
        row.capacity = capacity
        row.busy = busy
        for i in range(ADAPTERS_OF_ROW):
            atomic_relax_u64(&row.names[i], names[i] if i < count else 0)
        atomic_store_u64(&row.generation, generation)
        return True

    def read(self, uint64_t slot, uint64_t generation):
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        cdef AdapterRow* row = &self.rows[slot]
        cdef uint64_t name
        cdef int i
        if atomic_load_u64(&row.generation) != generation or row.capacity == 0:
            return None
        loaded, waited_for = set(), set()
        for i in range(ADAPTERS_OF_ROW):
            name = atomic_relaxed_u64(&row.names[i])
            if name == 0:
                break
            (loaded if name & 1 else waited_for).add(name & ~<uint64_t>1)
        return {"capacity": row.capacity, "busy": row.busy, "loaded": loaded, "waited_for": waited_for}

    def affinity_of(self, uint64_t slot, uint64_t generation, uint64_t adapter):
        if slot >= self.capacity:
            raise IndexError(f"slot {slot} of {self.capacity}")
        return AFFINITIES[<int>self.affinity(slot, generation, adapter)]
