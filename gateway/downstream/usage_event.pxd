cdef class UsageEventFilter:
    cdef bytes _partial
    cpdef bytes feed(self, bytes piece)
