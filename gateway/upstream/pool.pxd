cdef class Pool:
    cdef dict _idle
    cdef readonly set connections
    cpdef take(self, endpoint)
    cpdef give(self, connection)
