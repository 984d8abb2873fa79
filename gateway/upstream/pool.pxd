from gateway.upstream.connection cimport Connection

cdef class Pool:
    cdef dict _idle
    cdef readonly set connections
    cpdef Connection take(self, endpoint)
    cpdef give(self, Connection connection)
