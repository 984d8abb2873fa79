from gateway.exchange cimport RequestIds
from gateway.identity.gate cimport Gate

cdef class App:
    cdef object _pipeline
    cdef object _world, _is_ready, _clock
    cdef Gate _gate
    cdef RequestIds _ids
    cdef object _started
    cpdef _exchange(self, scope, protocol)
