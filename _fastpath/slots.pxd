# Endpoint identity -> slot with a generation.
#
#   high water | identity[slots] | generation[slots] | reference[rows][slots]
#
# A reference byte says that the snapshot of that row's owner names the slot. Only the supervisor frees: it sets the low bit of the
# generation (dying), looks at the references once more, and either takes the bit back or moves the generation on and clears
# the identity. Who acquires sets its reference first and looks at identity and generation afterwards, so one of the two sees
# the other.
from libc.stdint cimport uint8_t, uint64_t
from _fastpath.identity_table cimport IdentityColumn
from _fastpath.shared_memory cimport SharedMemory

cdef class Slots:
    cdef SharedMemory memory
    cdef IdentityColumn identities
    cdef uint64_t* generations
    cdef uint8_t* references
    cdef uint64_t capacity
    cdef uint64_t rows
    cdef dict _unconfirmed        # slot -> odd word at the last sweep

    cdef bint is_current(self, uint64_t slot, uint64_t generation) noexcept nogil
    cdef bint is_referenced(self, uint64_t slot) noexcept nogil
    cdef uint64_t _settled_generation(self, uint64_t slot) noexcept nogil
