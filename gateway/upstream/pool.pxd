cimport cython
from gateway.upstream.connection cimport Connection, Keeper

cdef class Pool(Keeper):
    cdef dict _idle
    cdef readonly set connections
    @cython.locals(connection=Connection, idle=list)
    cpdef Connection take(self, endpoint)
    @cython.locals(idle=list)
    cpdef give(self, Connection connection)
    @cython.locals(idle=list)
    cpdef lost(self, Connection connection)
