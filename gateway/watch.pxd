from gateway.deadlines cimport Deadlines
from gateway.exchange cimport Exchange

cdef class Watch:
    cdef Exchange _exchange
    cdef Deadlines _deadlines
    cdef object _requests, _leaving
    cdef bint _is_watching
    cpdef begin(self)
    cpdef check(self, double now)
