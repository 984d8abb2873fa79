cimport cython
from _fastpath.clock cimport seconds
from gateway.exchange cimport Exchange, Operation, RequestIds
from gateway.identity.gate cimport Gate
from gateway.pipeline cimport Pipeline

cdef class App:
    cdef Pipeline _pipeline
    cdef dict _operations
    cdef object _world, _is_ready, _clock
    cdef Gate _gate
    cdef RequestIds _ids
    cdef object _started
    @cython.locals(path=str, operation=Operation)
    cpdef Exchange _exchange(self, scope, protocol)
