# Whether an endpoint is fit to be chosen: one word at its slot, which whoever learns something changes by one exchange.
#
#   state (2 bits) | failures in a row (7) | ejections (5) | mark of the slot's generation (14) | time in milliseconds (36)
#
# A killed process leaves no half of a change. The time is of the return or of the first sight while an endpoint serves, the end of
# the ejection while it is out, and the end of the lease while a request probes it; the failures are the prober's row then. It wraps
# after 795 days: times are compared by their difference. A word that bears another generation's mark says nothing, and nobody has to clear it.
from libc.stdint cimport int64_t, uint64_t
from _fastpath.shared_memory cimport SharedMemory
from _fastpath.slots cimport Slots

cdef enum Standing:
    SERVING = 0                   # the only one without a bit: a glance at the word tells that there is nothing to think about
    WARMING                       # serves, and gets less until it has for a while
    OUT                           # ejected
    PROBING                       # ejected, and one request tries it
    DUE                           # ejected for long enough: one request may try it. In no word, it follows from the time
    STATE_BITS = 3

# What an endpoint may be given.
cdef struct Fitness:
    Standing standing
    double share                  # of what others are given, above 0 and up to 1

cdef class Outlier:
    cdef uint64_t failures
    cdef int64_t base             # milliseconds, as the others
    cdef int64_t longest
    cdef int64_t slow_start
    cdef int64_t lease
    cdef readonly double maximum_ejected_percent

    cdef int64_t ejection(self, uint64_t ejections) noexcept nogil

cdef class Health:
    cdef SharedMemory memory
    cdef Slots slots
    cdef uint64_t* words
    cdef uint64_t capacity
    cdef long own                 # row of this process, -1: it claims nothing

    cpdef int note(self, uint64_t slot, uint64_t generation, Outlier outlier, int outcome, double sent, double now,
                   uint64_t probe=*) except -1
    cdef uint64_t word(self, uint64_t slot, uint64_t generation) noexcept nogil
    cdef Fitness look(self, uint64_t slot, uint64_t generation, Outlier outlier, double now) noexcept nogil
    cdef void settle(self, uint64_t slot, uint64_t generation) noexcept nogil
    cdef uint64_t claim_probe(self, uint64_t slot, uint64_t generation, Outlier outlier, double now) noexcept nogil
    cdef int _check(self, uint64_t slot) except -1
