# How long answers are, as all workers learn it: a table of cells of one word each, so that every change is one exchange.
#
#   mark of the kind (20 bits) | time of its last answer in units of 64 s (12) | how many answers, 63 for more (6) | mean in 1/256 (26)
#
# A kind is 64 bits: its low ones name a set of eight cells, its high ones are the mark. In a full set the kind gives way whose last answer
# is the oldest; a time older than three days may count as a younger one. Kinds that agree in set and mark share a mean. 0 is no kind.
from libc.stdint cimport int64_t, uint64_t
from _fastpath.shared_memory cimport SharedMemory

cdef enum:
    LENGTH_SETS = 512
    LENGTH_WAYS = 8

cdef class OutputLengths:
    cdef SharedMemory memory
    cdef uint64_t* cells

    cdef uint64_t* first(self, uint64_t kind) noexcept nogil
    cpdef double mean(self, uint64_t kind) except -2
    cpdef int64_t expected(self, uint64_t kind, int64_t prior) except? -1
    cpdef object learn(self, uint64_t kind, double tokens, double prior, double now)
