from _fastpath.log_line cimport request_line
from gateway.exchange cimport Exchange

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
    cpdef str of(self, double wall)

cpdef bytes line(Exchange exchange, double now, double wall, Timestamps stamps)
cpdef str _shown(str text)
