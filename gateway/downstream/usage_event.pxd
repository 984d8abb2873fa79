from _fastpath.usage cimport has_no_usage

cdef class UsageEventFilter:
    cdef bytes _partial
    cpdef bytes feed(self, bytes piece)
