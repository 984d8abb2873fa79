from gateway.deadlines cimport Deadlines
from gateway.exchange cimport Exchange

cdef class Watches:
    cdef Deadlines _deadlines
    cdef object _requests
    cdef list _young
    cpdef begin(self, Exchange exchange)
    cpdef check(self, double now)

cdef class Watch:
    cdef Exchange _exchange
    cdef Deadlines _deadlines
    cdef object _requests, _leaving
    cdef bint _is_watching
    cpdef check(self, double now)
