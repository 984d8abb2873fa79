# Which LoRA adapters each engine has loaded, at its slot; one writer, the sidecar. A row is as old as the scrape beside it
# (`EngineMetrics.time` of _fastpath/load.pxd), and is marked with the slot's generation as that is.
#
# A reader may meet a row that is being written: it sees an adapter too few or too many for a moment, and nothing waits.
from libc.stdint cimport uint32_t, uint64_t
from _fastpath.shared_memory cimport SharedMemory
from _fastpath.slots cimport Slots

cdef enum:
    ADAPTERS_OF_ROW = 30          # further ones are not remembered

cdef enum Affinity:               # of an engine to an adapter
    UNTOLD = 0                    # the engine does not say
    LOADED
    ROOM                          # not there, and another can be loaded at once
    QUEUED                        # not there, and a request waits there for it
    TAKEN                         # not there, and requests run with as many others as fit

cdef struct AdapterRow:
    uint64_t generation
    uint32_t capacity             # adapters that requests can run with at once, 0: the engine does not say
    uint32_t busy                 # of these, how many requests run or wait with
    uint64_t names[30]            # 64 bits of a name each, the lowest says loaded (1) or only waited for (0); the first 0 ends them

cdef class Adapters:
    cdef SharedMemory memory
    cdef Slots slots
    cdef AdapterRow* rows
    cdef uint64_t capacity

    cdef Affinity affinity(self, uint64_t slot, uint64_t generation, uint64_t adapter) noexcept nogil
