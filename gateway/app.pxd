from gateway.exchange cimport RequestIds

cdef class App:
    cdef object _pipeline
    cdef object _world, _is_ready, _clock
    cdef RequestIds _ids
    cdef object _started
