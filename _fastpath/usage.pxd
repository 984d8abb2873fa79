# What an engine says it used, read backwards from the end of its answer: nothing is parsed, so that a tail that begins anywhere will do.
from libc.stdint cimport uint8_t

cdef enum:
    USAGE_BYTES = 2048            # a usage object is looked through so far
    TAIL_BYTES = 4096             # of a stream's end that are kept

cdef class Tail:
    cdef uint8_t kept[TAIL_BYTES] # a ring: the byte at `size % TAIL_BYTES` is the next to be written
    cdef size_t size              # bytes of the whole stream so far

    cpdef object add(self, bytes piece)
    cpdef bytes text(self)

cpdef object scan_usage(bytes text)
cpdef Py_ssize_t events_in(bytes piece) except -1
cpdef bint has_no_usage(bytes piece) except -1
