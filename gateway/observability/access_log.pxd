cimport cython
from _fastpath.log_line cimport moment, request_line
from gateway.exchange cimport Exchange
from gateway.routing.match cimport Matched
from gateway.scheduling.place cimport Placement
from gateway.scheduling.pool cimport ServerPool

cdef class AccessLog:
    cdef object _descriptor, _arrived, _ended, _thread
    cdef bint _enabled
    cdef readonly list _lines
    cdef Timestamps _stamps
    cdef readonly long long dropped
    cpdef finished(self, Exchange exchange, double now, double wall)

cdef class Timestamps:
    cdef long long _second, _milliseconds
    cdef str _seconds, _text
    @cython.locals(milliseconds="long long", second="long long")
    cpdef str of(self, double wall)

@cython.locals(placement=Placement, server=ServerPool, matched=Matched, started=double, first=double, sent=double)
cpdef bytes line(Exchange exchange, double now, double wall, Timestamps stamps)
cpdef str _shown(str text)
